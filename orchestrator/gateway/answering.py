"""Asks the orchestrator for a request, and returns the answers whole or as a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from orchestrator.client.question import Question
from orchestrator.gateway.errors import as_api_error
from orchestrator.gateway.event_stream import COMMENT_STARTING, EventStream, comment
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.shape import Event, Shape
from orchestrator.gateway.streams import numbered_pieces, unless_hung_up
from schemas.errors import LinguabusError
from schemas.messages import StreamText

if TYPE_CHECKING:
    from orchestrator.client.async_client import AsyncAnswer


async def answered(
    gateway: Gateway, caller: str, request: Request, questions: Sequence[Question], shape: Shape, *, stream: bool
) -> Response:
    """The response to a request for one answer to each question.

    Raises:
        ApiError, MessageError, QuestionTooLong: see `Gateway.ask`.
        AnswerFailed, AnswerIncomplete: an answer that was awaited whole has none.
        HungUp: it was, and the caller is gone.
    """
    with ExitStack() as held:
        answers = await gateway.ask(caller, questions, held)
        shape.begin(answers[0].request)
        if stream:
            return EventStream(_lines(gateway, answers, shape), held.pop_all())
        return JSONResponse(await unless_hung_up(request, _whole(gateway, answers, shape)))


async def _whole(gateway: Gateway, answers: list[AsyncAnswer], shape: Shape) -> Event:
    async for _ in numbered_pieces(answers, quiet_s=gateway.limits.quiet_s):
        pass
    return shape.whole(answers)


async def _lines(gateway: Gateway, answers: list[AsyncAnswer], shape: Shape) -> AsyncGenerator[bytes, None]:
    """The lines of a stream. Errors after its beginning are an event, as there is no other way to tell them.

    What belongs together is one piece: each is a call of the system, in which other threads take the interpreter.
    """
    yield b"".join([COMMENT_STARTING, *(shape.line(part) for n in range(len(answers)) for part in shape.opening(n))])
    try:
        async for number, piece in numbered_pieces(answers, quiet_s=gateway.limits.quiet_s):
            if isinstance(piece, StreamText):
                yield b"".join(map(shape.line, shape.piece(number, piece, answers[number])))
            elif piece is None:
                yield b"".join(map(shape.line, shape.end(number, answers[number])))
            elif piece.waiting:
                since_s = time.monotonic() - piece.waiting.since_s
                yield comment(f"waiting for {piece.waiting.text}, {since_s:.0f} s")
            else:
                yield comment("still there")
        yield b"".join([*map(shape.line, shape.closing(answers)), shape.last_line])
    except LinguabusError as error:
        yield shape.line(shape.failed(as_api_error(error)))
