"""A client for asyncio: many answers and commands at once, over one connection.

It is the synchronous client, driven by the event loop: nothing is handed to another thread on the way of a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Self

from broker.address import BrokerAddress
from broker.bus import WatchedBus
from broker.errors import BusError
from broker.loop_watch import LoopWatch
from orchestrator.client.async_answer import AsyncAnswer, StillThere
from orchestrator.client.client import LOOK_S, SURE_BYTES, Client
from orchestrator.client.control_calls import CONTROL_TIMEOUT_S, Reply
from orchestrator.client.errors import AnswerIncomplete, ControlRefused, NoOrchestrator
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
)

TELL_S = 1.0
"""An answer that waits is told so, with for how long, so often."""
_CLOSED = "the connection to the fleet was closed: ask again"


class AsyncClient:
    """A client for one event loop, over a connected `Client`, which it owns. An asynchronous context manager."""

    def __init__(self, client: Client) -> None:
        """Nothing is done before `start`; raises TypeError for a client whose bus no event loop can drive."""
        if not isinstance(client.bus, WatchedBus):
            raise TypeError("an event loop can't wait for this bus")
        self._client = client
        self._bus = client.bus
        self._watch: LoopWatch
        self._answers: dict[str, AsyncAnswer] = {}
        self._calls: dict[str, tuple[tuple[type[Any], ...], float, asyncio.Future[Any]]] = {}
        """The open commands: what may answer them, until when, who waits."""
        self._tell_s = 0.0
        """When it is looked next what answers wait for."""
        self._told_s: dict[str, float] = {}
        """When a request was last told that it waits; none that does not."""
        self._listeners: set[asyncio.Queue[FleetEvent | Exception]] = set()
        self._is_listening = False
        self._failure: Exception | None = None
        self._closing: asyncio.Future[None]

    async def start(self) -> Self:
        """Serve this event loop from now on, once; returns the client."""
        self._watch = LoopWatch(asyncio.get_running_loop(), self._bus, self._turn)
        self._turn()
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
        self._end(AnswerIncomplete(_CLOSED))
        await self._closing

    # --- answers and commands ---------------------------------------------------------------------------------

    async def ask(self, question: Question, *, model: str | None = None) -> AsyncAnswer:
        """Ask a question, and return the answer to come; see `Client.submit`. ``model``: that is to answer.

        Raises:
            MessageError, QuestionTooLong
        """
        self._check_open()
        submit, size_bytes = self._client.worded(question)
        if size_bytes > SURE_BYTES:
            known_bytes = None
            with suppress(NoOrchestrator, ControlRefused):
                known_bytes = (await self.status()).max_message_bytes
            self._client.check_length(size_bytes, known_bytes)
        answer = AsyncAnswer(self._client.reader.submit(submit), self.leave, model=model)
        self._answers[answer.request] = answer
        self._look()
        return answer

    @property
    def broker(self) -> str:
        """The broker's address, for people."""
        return self._client.broker

    def is_gone(self, pipeline: str) -> bool:
        """Is it known that nobody serves this pipeline?"""
        return self._client.reader.is_gone(pipeline)

    def leave(self, answer: AsyncAnswer) -> None:
        """Read no more of an answer, and cancel it unless it has ended. Idempotent."""
        if self._answers.pop(answer.request, None) is None or self._failure:
            return
        self._told_s.pop(answer.request, None)
        try:
            self._client.leave(answer.request)
        except BusError as error:
            self._end(error)
        else:
            self._look()

    async def command(self, command: OperatorRequest, *answers: type[Reply], timeout_s: float | None = None) -> Reply:
        """Give the orchestrator a command and return its answer; see `Client.command`.

        Raises:
            NoOrchestrator, ControlRefused, MessageError
        """
        self._check_open()
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        until_s = time.monotonic() + (CONTROL_TIMEOUT_S if timeout_s is None else timeout_s)
        self._calls[self._client.calls.begin(command)] = answers, until_s, answered
        self._look()
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
                self._client.listen()
                self._look()
            while isinstance(item := await heard.get(), FleetEvent):
                yield item
            raise item
        finally:
            self._listeners.discard(heard)

    def _check_open(self) -> None:
        if self._failure:
            raise self._failure

    # --- what the loop waits for ------------------------------------------------------------------------------

    def _look(self) -> None:
        """Have the event loop wait for what there is to wait for by now."""
        until_s = self._client.reader.due_s
        if self._answers or self._calls:
            until_s = min(until_s, time.monotonic() + LOOK_S)
        self._watch.look(until_s)

    def _turn(self) -> None:
        """Do what there is to do. Called by the event loop."""
        try:
            arrived = self._client.receive_all()
        except (BusError, OSError) as error:
            self._end(error)
            return
        for request, messages in arrived.items():
            if answer := self._answers.get(request):
                for item in [messages] if isinstance(messages, AnswerIncomplete) else messages:
                    answer.put(item)
        self._tell_waits()
        self._hear(self._client.heard_events())
        for request in list(self._calls):
            self._look_for_reply(request)
        self._look()

    def _tell_waits(self) -> None:
        """Tell answers what they wait for, where that is due."""
        now_s = time.monotonic()
        if now_s < self._tell_s:  # not with each token of each answer
            return
        self._tell_s = now_s + LOOK_S
        for request, answer in self._answers.items():
            waiting = self._client.waiting(request)
            if waiting and now_s >= self._told_s.get(request, 0.0) + TELL_S:
                self._told_s[request] = now_s
                answer.put(StillThere(waiting))
            elif waiting is None and self._told_s.pop(request, None) is not None:
                answer.put(StillThere())

    def _hear(self, events: Sequence[FleetEvent | Exception]) -> None:
        for heard in self._listeners:
            for event in events:
                if heard.qsize() >= MOST_EVENTS:
                    heard.get_nowait()
                heard.put_nowait(event)

    def _look_for_reply(self, request: str) -> None:
        answers, until_s, answered = self._calls[request]
        calls = self._client.calls
        if answered.done():  # nobody waits for it any more
            calls.forget(request)
        elif calls.is_answered(request):
            try:
                answered.set_result(calls.take(request, *answers))
            except Exception as error:
                answered.set_exception(error)
        elif time.monotonic() >= until_s:
            calls.forget(request)
            answered.set_exception(NoOrchestrator(self._client.broker))
        else:
            return
        del self._calls[request]

    def _end(self, error: Exception) -> None:
        """Tell all who wait that there is nothing more to come, and let go of the connection. Idempotent."""
        if self._failure:
            return
        self._failure = error
        self._watch.close()
        # The good-bye takes up to a second, where the broker does not answer.
        self._closing = asyncio.get_running_loop().run_in_executor(None, self._client.close)
        for answer in self._answers.values():
            answer.put(error)
        self._hear([error])
        for _, _, answered in self._calls.values():
            if not answered.done():
                answered.set_exception(error)
