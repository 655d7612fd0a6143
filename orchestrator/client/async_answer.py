"""One answer on its way to a reader in an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from orchestrator.client.answer import AnswerSoFar
from orchestrator.client.answer_reader import Waiting
from orchestrator.client.answer_stream import AnswerStream, StreamMessage
from orchestrator.client.errors import AnswerFailed, OtherModel
from schemas.messages import StreamEnd, StreamText, ToolFormat


@dataclass(frozen=True)
class StillThere:
    """Nothing has come of an answer for a while; ``waiting``: what it waits for, if something is missing."""

    waiting: Waiting | None = None


Item = StreamMessage | StillThere | Exception


class AsyncAnswer(AnswerSoFar):
    """One answer on its way. Iterate over the object for the text."""

    def __init__(self, stream: AnswerStream, leave: Callable[[AsyncAnswer], None], *, model: str | None = None) -> None:
        """``leave`` reads no more of it; ``model``: that is to answer, and no other."""
        super().__init__(stream)
        self._leave = leave
        self._model = model
        self._arrived: asyncio.Queue[Item] = asyncio.Queue()
        self._came_s = 0.0
        self._quiet: asyncio.TimerHandle | None = None
        self.is_refused = False
        """Has the orchestrator said, before anything came, that nothing will?"""

    @property
    def tool_format(self) -> ToolFormat | None:
        """How its model writes calls of tools; known before the first piece."""
        return self.stream.tool_format

    def put(self, item: Item) -> None:
        """Take in what has arrived; for the client."""
        self._came_s = time.monotonic()
        self._arrived.put_nowait(item)

    def _tell_quiet(self, quiet_s: float) -> None:
        """Have it told whenever nothing has come for so long. A timer for each piece would cost as much as it."""
        left_s = self._came_s + quiet_s - time.monotonic()
        if left_s <= 0:
            left_s = quiet_s
            if self._arrived.empty():
                self.put(StillThere())
        self._quiet = asyncio.get_running_loop().call_later(left_s, self._tell_quiet, quiet_s)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Iterate over the answer's text, piece by piece; errors as in `pieces`."""
        async for piece in self.pieces():
            if isinstance(piece, StreamText) and piece.text:
                yield piece.text

    async def pieces(self, *, quiet_s: float | None = None) -> AsyncGenerator[StreamText | StillThere, None]:
        """The pieces of the answer, and what it waits for meanwhile. An answer that is left early is cancelled.

        ``quiet_s``: where nothing comes for so long, that is said, too.

        Raises:
            AnswerFailed: the orchestrator says that there will be no (more) answer.
            OtherModel: another one answers than the one that is to.
            AnswerIncomplete: a piece is missing, or nobody is there any more.
        """
        if quiet_s is not None:
            self._came_s = time.monotonic()
            self._tell_quiet(quiet_s)
        try:
            while self.end is None:
                item = await self._arrived.get()
                if isinstance(item, StreamText):
                    self._check_model()
                    self._add(item)
                    yield item
                elif isinstance(item, StreamEnd):
                    self.end = item
                elif isinstance(item, StillThere):
                    yield item
                elif isinstance(item, Exception):
                    raise item
                else:
                    self.is_refused = not self.token_ids
                    raise AnswerFailed(item.code, item.reason)
        finally:
            if self._quiet:
                self._quiet.cancel()
            self.leave()

    def _check_model(self) -> None:
        serving = self.stream.model
        if self._model and serving and serving != self._model:
            raise OtherModel(self._model, serving)

    async def whole(self) -> str:
        """The whole text; errors as in `pieces`."""
        async for _ in self.pieces():
            pass
        return self.text

    def leave(self) -> None:
        """Read no more of it, and cancel it unless it has ended. Idempotent."""
        self._leave(self)
