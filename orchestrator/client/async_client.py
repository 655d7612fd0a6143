"""A client for asyncio: many answers and commands at once, over one connection.

It is the synchronous client in a thread of its own, which is the connection's only one; what arrives is handed to the
event loop in batches.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from broker.address import BrokerAddress
from broker.errors import BusError
from orchestrator.client.answer import AnswerSoFar
from orchestrator.client.answer_reader import Waiting
from orchestrator.client.answer_stream import AnswerStream, StreamMessage
from orchestrator.client.client import Client
from orchestrator.client.control_calls import CONTROL_TIMEOUT_S, Reply
from orchestrator.client.errors import AnswerFailed, AnswerIncomplete, NoOrchestrator
from orchestrator.client.question import Question
from schemas.messages import (
    MOST_EVENTS,
    FleetEvent,
    NodesReply,
    OperatorRequest,
    OverviewReply,
    PlanReply,
    ShowNodes,
    ShowOverview,
    ShowPlan,
    ShowStatus,
    StatusReply,
    StreamEnd,
    StreamText,
    ToolFormat,
)

TELL_S = 1.0
"""An answer that waits is told so, with for how long, so often."""
_CLOSED = "the connection to the fleet was closed: ask again"
_END_S = 5.0
"""Closing waits so long for the thread: the broker's acknowledgement of the last cancellations, and no longer."""

_Item = StreamMessage | Waiting | Exception | None


@dataclass(frozen=True)
class StillThere:
    """Nothing has come of an answer for a while; ``waiting``: what it waits for, if something is missing."""

    waiting: Waiting | None = None


class AsyncAnswer(AnswerSoFar):
    """One answer on its way. Iterate over the object for the text."""

    def __init__(self, client: AsyncClient, stream: AnswerStream) -> None:
        super().__init__(stream)
        self._client = client
        self._arrived: asyncio.Queue[_Item] = asyncio.Queue()
        self.is_refused = False
        """Has the orchestrator said, before anything came, that nothing will?"""

    @property
    def tool_format(self) -> ToolFormat | None:
        """How its model writes calls of tools; known before the first piece."""
        return self.stream.tool_format

    def put(self, item: _Item) -> None:
        """Take in what has arrived; for the client."""
        self._arrived.put_nowait(item)

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
            AnswerIncomplete: a piece is missing, or nobody is there any more.
        """
        try:
            while self.end is None:
                try:
                    async with asyncio.timeout(quiet_s):
                        item = await self._arrived.get()
                except TimeoutError:
                    yield StillThere()
                    continue
                if isinstance(item, StreamEnd):
                    self.end = item
                elif isinstance(item, StreamText):
                    self._add(item)
                    yield item
                elif item is None or isinstance(item, Waiting):
                    yield StillThere(item)
                elif isinstance(item, Exception):
                    raise item
                else:
                    self.is_refused = not self.token_ids
                    raise AnswerFailed(item.code, item.reason)
        finally:
            self.leave()

    async def whole(self) -> str:
        """The whole text; errors as in `pieces`."""
        async for _ in self.pieces():
            pass
        return self.text

    def leave(self) -> None:
        """Read no more of it, and cancel it unless it has ended. Idempotent."""
        self._client.leave(self)


class AsyncClient:
    """A client for one event loop, over a connected `Client`, which it owns. An asynchronous context manager."""

    def __init__(self, client: Client) -> None:
        """Nothing is done before `start`."""
        self._client = client
        self._loop: asyncio.AbstractEventLoop
        self._answers: dict[str, AsyncAnswer] = {}
        self._orders: deque[Callable[[], None]] = deque()
        """For the thread."""
        self._ordered: set[asyncio.Future[Any]] = set()
        """What is awaited of those, and of commands."""
        self._calls: dict[str, tuple[tuple[type[Any], ...], float, asyncio.Future[Any]]] = {}
        """The thread's open commands: what may answer them, until when, who waits."""
        self._told_s: dict[str, float] = {}
        """The thread's: when a request was last told that it waits; none that does not."""
        self._listeners: set[asyncio.Queue[FleetEvent | Exception]] = set()
        self._is_listening = False
        self._closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="client", daemon=True)

    async def start(self) -> Self:
        """Serve this event loop from now on, once; returns the client."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    @classmethod
    async def connect(cls, broker: str | BrokerAddress, *, timeout_s: float = 5.0) -> Self:
        """Connect to this broker; see `Client.connect`.

        Raises:
            BadBrokerUrl, BrokerUnreachable, BrokerRefused
        """
        return await cls(await asyncio.to_thread(Client.connect, broker, timeout_s=timeout_s)).start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancel what is open and close the connection. Idempotent."""
        self._closing = True
        if self._thread.is_alive():
            self._client.wake()
            await asyncio.to_thread(self._thread.join, _END_S)

    # --- answers and commands ---------------------------------------------------------------------------------

    async def ask(self, question: Question) -> AsyncAnswer:
        """Ask a question, and return the answer to come; see `Client.submit`.

        Raises:
            MessageError, QuestionTooLong
        """
        asked: asyncio.Future[AsyncAnswer] = self._loop.create_future()

        def ask() -> None:
            begun = self._client.submit(question)
            answer = self._answers[begun.request] = AsyncAnswer(self, begun.stream)
            self._settle(asked, answer, None)

        self._order(ask, asked)
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(_leave)
            raise

    @property
    def broker(self) -> str:
        """The broker's address, for people."""
        return self._client.broker

    def is_gone(self, pipeline: str) -> bool:
        """Is it known that nobody serves this pipeline?"""
        return self._client.reader.is_gone(pipeline)

    def leave(self, answer: AsyncAnswer) -> None:
        """Read no more of an answer, and cancel it unless it has ended."""

        def leave() -> None:
            self._answers.pop(answer.request, None)
            self._told_s.pop(answer.request, None)
            self._client.leave(answer.request)

        if self._thread.is_alive():
            self._orders.append(leave)
            self._client.wake()

    async def command(self, command: OperatorRequest, *answers: type[Reply], timeout_s: float | None = None) -> Reply:
        """Give the orchestrator a command and return its answer; see `Client.command`.

        Raises:
            NoOrchestrator, ControlRefused, MessageError
        """
        answered: asyncio.Future[Reply] = self._loop.create_future()
        until_s = time.monotonic() + (CONTROL_TIMEOUT_S if timeout_s is None else timeout_s)

        def begin() -> None:
            self._calls[self._client.calls.begin(command)] = answers, until_s, answered

        self._order(begin, answered)
        return await answered

    async def nodes(self) -> NodesReply:
        """All nodes, and how they are doing."""
        return await self.command(ShowNodes(), NodesReply)

    async def plan(self) -> PlanReply:
        """The plans in force."""
        return await self.command(ShowPlan(), PlanReply)

    async def status(self, *, timeout_s: float | None = None) -> StatusReply:
        """The state of the service."""
        return await self.command(ShowStatus(), StatusReply, timeout_s=timeout_s)

    async def overview(self) -> OverviewReply:
        """All pipelines and nodes as they are at this moment."""
        return await self.command(ShowOverview(), OverviewReply)

    async def events(self) -> AsyncGenerator[FleetEvent, None]:
        """Events from now on; of a reader who takes none the oldest are dropped.

        Raises:
            AnswerIncomplete, BusError: the client is closed, or its connection has failed.
        """
        self._check_open()
        heard: asyncio.Queue[FleetEvent | Exception] = asyncio.Queue()
        self._listeners.add(heard)
        try:
            if not self._is_listening:
                self._is_listening = True
                await self._listen()
            while isinstance(item := await heard.get(), FleetEvent):
                yield item
            raise item
        finally:
            self._listeners.discard(heard)

    async def _listen(self) -> None:
        listening: asyncio.Future[None] = self._loop.create_future()

        def listen() -> None:
            self._client.listen()
            self._settle(listening, None, None)

        self._order(listen, listening)
        await listening

    # --- the thread -------------------------------------------------------------------------------------------

    def _order(self, function: Callable[[], None], awaited: asyncio.Future[Any]) -> None:
        """Have the thread call a function; who awaits this gets its error."""

        def run() -> None:
            try:
                function()
            except Exception as error:
                self._settle(awaited, None, error)

        self._check_open()
        self._orders.append(run)
        self._ordered.add(awaited)
        awaited.add_done_callback(self._ordered.discard)
        self._client.wake()

    def _check_open(self) -> None:
        if self._failure or not self._thread.is_alive():
            raise self._failure or AnswerIncomplete(_CLOSED)

    def _settle(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        def settle() -> None:
            if future.done():  # nobody waits for it any more
                return
            if error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._loop.call_soon_threadsafe(settle)

    def _run(self) -> None:
        try:
            try:
                with self._client:
                    while not self._closing:
                        self._turn()
                self._failure = AnswerIncomplete(_CLOSED)
            except (BusError, OSError) as error:
                self._failure = error
            self._loop.call_soon_threadsafe(self._end, self._failure)
        except RuntimeError:  # the event loop is closed
            if not self._loop.is_closed():
                raise

    def _turn(self) -> None:
        while self._orders:
            self._orders.popleft()()
        arrived: list[tuple[AsyncAnswer, _Item]] = []
        for request, messages in self._client.receive_all().items():
            if answer := self._answers.get(request):
                items = [messages] if isinstance(messages, AnswerIncomplete) else messages
                arrived += [(answer, item) for item in items]
        arrived += self._waits()
        if arrived:
            self._loop.call_soon_threadsafe(_hand_over, arrived)
        if events := self._client.heard_events():
            self._loop.call_soon_threadsafe(self._hear, events)
        for request in list(self._calls):
            self._look_for_reply(request)

    def _waits(self) -> list[tuple[AsyncAnswer, _Item]]:
        """What answers wait for, where that is to be told now."""
        told: list[tuple[AsyncAnswer, _Item]] = []
        now_s = time.monotonic()
        for request, answer in self._answers.items():
            waiting = self._client.waiting(request)
            if waiting and now_s >= self._told_s.get(request, 0.0) + TELL_S:
                self._told_s[request] = now_s
                told.append((answer, waiting))
            elif waiting is None and self._told_s.pop(request, None) is not None:
                told.append((answer, None))
        return told

    def _hear(self, events: Sequence[FleetEvent | Exception]) -> None:
        for heard in self._listeners:
            for event in events:
                if heard.qsize() >= MOST_EVENTS:
                    heard.get_nowait()
                heard.put_nowait(event)

    def _look_for_reply(self, request: str) -> None:
        answers, until_s, answered = self._calls[request]
        calls = self._client.calls
        if calls.is_answered(request):
            try:
                self._settle(answered, calls.take(request, *answers), None)
            except Exception as error:
                self._settle(answered, None, error)
        elif time.monotonic() >= until_s:
            calls.forget(request)
            self._settle(answered, None, NoOrchestrator(self._client.broker))
        else:
            return
        del self._calls[request]

    def _end(self, error: Exception) -> None:
        """Tell all who wait that there is nothing more to come. In the event loop, where no more can be ordered."""
        _hand_over([(answer, error) for answer in self._answers.values()])
        self._hear([error])
        for awaited in list(self._ordered):
            if not awaited.done():
                awaited.set_exception(error)


def _hand_over(arrived: Sequence[tuple[AsyncAnswer, _Item]]) -> None:
    for answer, item in arrived:
        answer.put(item)


def _leave(asked: asyncio.Future[AsyncAnswer]) -> None:
    if not asked.cancelled() and not asked.exception():
        asked.result().leave()
