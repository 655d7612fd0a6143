"""Several answers as one stream, in the order in which their pieces come; and what ends when its caller is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.client.async_answer import AsyncAnswer, StillThere
from schemas.errors import LinguabusError
from schemas.messages import StreamText

if TYPE_CHECKING:
    from starlette.requests import Request

_T = TypeVar("_T")
NumberedPiece = tuple[int, StreamText | StillThere | None]
HEAD_S = 0.5
"""The headers of a stream wait so long for its first piece, with which they are one packet, or for its failure."""
_READ_BYTES_PER_S = 100_000
"""Longer for a long question: a slow orchestrator finds only so quickly that it does not fit into the context."""


class HungUp(Exception):
    """The caller is gone: there is nobody to answer."""


async def numbered_pieces(answers: Sequence[AsyncAnswer], *, quiet_s: float) -> AsyncGenerator[NumberedPiece, None]:
    """(number of the answer, its next piece) as they come; None at an answer's end. Leaving ends all that are open.

    Raises:
        AnswerFailed, AnswerIncomplete: of the first answer that has no (more) text.
    """
    if len(answers) == 1:
        async with aclosing(answers[0].pieces(quiet_s=quiet_s)) as pieces:
            async for piece in pieces:
                yield 0, piece
        yield 0, None
        return
    arrived: asyncio.Queue[tuple[int, StreamText | StillThere | LinguabusError | None]] = asyncio.Queue(len(answers))

    async def forward(number: int, answer: AsyncAnswer) -> None:
        try:
            async with aclosing(answer.pieces(quiet_s=quiet_s)) as pieces:
                async for said in pieces:
                    await arrived.put((number, said))
        except LinguabusError as error:
            await arrived.put((number, error))
        else:
            await arrived.put((number, None))

    tasks = [asyncio.create_task(forward(*pair)) for pair in enumerate(answers)]
    try:
        ended = 0
        while ended < len(answers):
            number, came = await arrived.get()
            if isinstance(came, LinguabusError):
                raise came
            ended += came is None
            yield number, came
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def begun(
    pieces: AsyncGenerator[_T, None], answers: Sequence[AsyncAnswer], held: ExitStack
) -> AsyncGenerator[_T, None]:
    """The same pieces, of which there is at least one, once it has come or has not for `HEAD_S`, longer for long ones.

    What is wrong until then is raised here, where a response still has a status. ``held`` has to end with the pieces.
    """
    question_bytes = sum(answer.stream.question_bytes for answer in answers)
    end_s = time.monotonic() + HEAD_S + question_bytes / _READ_BYTES_PER_S
    early: list[_T] = []
    while True:
        coming = asyncio.ensure_future(anext(pieces))
        held.callback(coming.cancel)
        await asyncio.wait({coming}, timeout=max(0.0, end_s - time.monotonic()))
        if not coming.done():
            break
        try:
            early.append(coming.result())
        except StopAsyncIteration:  # an answer without text
            break
        if not _is_quiet(early[-1]):
            break

    async def continued() -> AsyncGenerator[_T, None]:
        async with aclosing(pieces):
            for piece in early:
                yield piece
            if not early or _is_quiet(early[-1]):
                try:
                    yield await coming
                except StopAsyncIteration:
                    return
            async for piece in pieces:
                yield piece

    return continued()


def _is_quiet(piece: object) -> bool:
    """Does a piece, or a numbered one, say no more than that an answer is waited for?"""
    return isinstance(piece[1] if isinstance(piece, tuple) else piece, StillThere)


async def unless_hung_up(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Do some work as long as the caller is there.

    Raises:
        HungUp: he is gone; the work was cancelled.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise HungUp
        return await working
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    """Return when the caller is gone. To be asked once his request is read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
