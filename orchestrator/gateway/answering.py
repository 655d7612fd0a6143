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
from orchestrator.gateway.event_stream import EventStream, comment
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.shape import Event, Shape
from orchestrator.gateway.streams import NumberedPiece, begun, numbered_pieces, unless_hung_up
from schemas.errors import LinguabusError
from schemas.messages import StreamText

if TYPE_CHECKING:
    from orchestrator.client.async_answer import AsyncAnswer, StillThere


async def answered(
    gateway: Gateway,
    caller: str,
    request: Request,
    questions: Sequence[Question],
    model: str,
    shape: Shape,
    *,
    stream: bool,
) -> Response:
    """The response to a request for a model's answer to each question.

    Raises:
        ApiError, MessageError, QuestionTooLong: see `Gateway.ask`.
        AnswerFailed, AnswerIncomplete: an answer has no text, or has no more of what was to be told whole.
        HungUp: an answer was awaited whole, and the caller is gone.
    """
    with ExitStack() as held:
        answers = await gateway.ask(caller, model, questions, held)
        shape.begin(answers[0].request)
        if stream:
            pieces = await begun(numbered_pieces(answers, quiet_s=gateway.limits.quiet_s), answers, held)
            return EventStream(_lines(pieces, answers, shape), held.pop_all())
        return JSONResponse(await unless_hung_up(request, _whole(gateway, answers, shape)))


async def _whole(gateway: Gateway, answers: list[AsyncAnswer], shape: Shape) -> Event:
    async for _ in numbered_pieces(answers, quiet_s=gateway.limits.quiet_s):
        pass
    return shape.whole(answers)


async def _lines(
    pieces: AsyncGenerator[NumberedPiece, None], answers: Sequence[AsyncAnswer], shape: Shape
) -> AsyncGenerator[bytes, None]:
    """The lines of a stream. Errors after its beginning are an event, as there is no other way to tell them.

    What belongs together is one piece: each is a call of the system, in which other threads take the interpreter.
    """
    opening = b"".join(shape.line(part) for number in range(len(answers)) for part in shape.opening(number))
    try:
        async for number, piece in pieces:
            yield opening + _line(shape, number, piece, answers[number])
            opening = b""
        yield b"".join([*map(shape.line, shape.closing(answers)), shape.last_line])
    except LinguabusError as error:
        yield opening + shape.line(shape.failed(as_api_error(error)))


def _line(shape: Shape, number: int, piece: StreamText | StillThere | None, answer: AsyncAnswer) -> bytes:
    if isinstance(piece, StreamText):
        return b"".join(map(shape.line, shape.piece(number, piece, answer)))
    if piece is None:
        return b"".join(map(shape.line, shape.end(number, answer)))
    if piece.waiting:
        since_s = time.monotonic() - piece.waiting.since_s
        return comment(f"waiting for {piece.waiting.text}, {since_s:.0f} s")
    return comment("still there")
