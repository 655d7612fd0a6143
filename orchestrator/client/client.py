"""A small synchronous client of a running orchestrator: ask questions, read answers, give commands.

It owns one bus connection and is for one thread; only `Answer.cancel` may be called from others and from signal
handlers. Used by the command line and by tests.

An answer is made as long as it is read: while a client waits for anything it renews what it has asked for, and it
cancels what it leaves. The broker says when its connection was lost.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from broker.address import BrokerAddress, as_address
from broker.bus import Bus, Connected, Delivery, Disconnected, Refused, Will
from broker.errors import BrokerUnreachable
from orchestrator.client.answer import Answer
from orchestrator.client.answer_reader import SILENCE_S, AnswerReader, Waiting
from orchestrator.client.answer_stream import StreamMessage
from orchestrator.client.control_calls import CONTROL_TIMEOUT_S, ControlCalls, Reply
from orchestrator.client.errors import AnswerIncomplete, ControlRefused, NoOrchestrator, QuestionTooLong
from orchestrator.client.fleet_commands import FleetCommands
from orchestrator.client.question import PIPELINE, Question
from schemas.closing import Closing
from schemas.errors import ContractError, MessageTooLong
from schemas.limits import DEFAULT_PATIENCE_S
from schemas.messages import (
    ChatMessage,
    ClientWill,
    FleetEvent,
    Grammar,
    OperatorRequest,
    Sampling,
    StreamEnd,
    StreamError,
    SubmitRequest,
    Tool,
    decode,
    encode,
)
from schemas.topics import (
    CLIENT_WILL,
    CONTROL_REPLY,
    CONTROL_SUBMIT,
    EVENT,
    LONGEST_TOPIC_BYTES,
    ORCHESTRATOR_STATUS,
    REQUEST_STREAM,
    REQUEST_SUBMIT,
)

LEASE_S = 4.0
"""A client that is not heard of for this long counts as gone, and what it has asked for ends."""
LOOK_S = 0.5
"""Who reads an answer sees at least so often what it waits for."""
SURE_BYTES = 4_096
"""Questions up to this length are sent without asking whether the broker takes them: nodes need as much themselves."""


class Client(FleetCommands, Closing):
    """A client of the orchestrator, over a connected bus. Leaving the context cancels what is open, closes the bus."""

    def __init__(
        self,
        bus: Bus,
        *,
        name: str,
        connection: str | None = None,
        broker: str,
        remedy: str | None = None,
        silence_s: float = SILENCE_S,
        control_timeout_s: float = CONTROL_TIMEOUT_S,
        lease_s: float | None = LEASE_S,
    ) -> None:
        """Make a client called ``name`` in topics; ``broker`` is the address for error messages, and ``remedy`` what to
        do where nobody answers there.

        ``connection`` tells it from others of the same name, as a member of a fleet may have several. ``lease_s`` None
        is for clients that may read nothing for longer and still want their answers.
        """
        self.bus = bus
        """Its connection. An event loop may wait for it, and nobody else use it."""
        self._name, self._connection = name, connection
        self.broker = broker
        self._silence_s = silence_s
        self._control_timeout_s = control_timeout_s
        self.calls = ControlCalls(bus, name=name)
        """The commands that are not answered yet, for who waits for several things at once."""
        self._lease_s = lease_s
        self.reader = AnswerReader(bus, name=name, broker=broker, remedy=remedy, silence_s=silence_s)
        """The answers that are not whole yet."""
        self._woken, self._events = False, list[FleetEvent]()
        self._check_s = 0.0
        """When it is looked next whether answers are to be given up."""
        # The broker handles one connection's packets in order, so answers can't be missed after this.
        patterns = (REQUEST_STREAM.filter(client=name), CONTROL_REPLY.filter(client=name), ORCHESTRATOR_STATUS.filter())
        bus.subscribe(patterns, qos=1)

    @classmethod
    def connect(
        cls,
        broker: str | BrokerAddress,
        *,
        timeout_s: float = 5.0,
        lease_s: float | None = LEASE_S,
        remedy: str | None = None,
    ) -> Self:
        """Connect to this broker. It tells the orchestrator when the connection is lost.

        A member of a fleet has its own name in topics, whoever has none a random one. ``remedy`` is what to do where
        nobody answers there, for people who can do more than look whether the fleet's host is on.

        Raises:
            BadBrokerUrl, BrokerUnreachable, BrokerRefused
        """
        from broker.mqtt import MqttBus

        address = as_address(broker)
        connection = f"client-{secrets.token_hex(8)}"
        name = address.username or connection
        last_words = encode(ClientWill(client=name, connection=connection))
        will = Will(CLIENT_WILL.format(client=name), last_words, qos=1, retain=False)
        bus = MqttBus(address, client_id=connection, will=will)
        try:
            bus.connect(timeout_s)
            return cls(bus, name=name, connection=connection, broker=str(bus.address), lease_s=lease_s, remedy=remedy)
        except BrokerUnreachable as error:
            bus.close()
            raise BrokerUnreachable(error.address, error.reason, remedy) if remedy else error from None
        except BaseException:
            bus.close()
            raise

    def close(self) -> None:
        """Cancel what is open and close the bus."""
        for request in self.reader.requests:
            self.leave(request)
        self.bus.close()

    def ask(
        self,
        messages: Sequence[ChatMessage] = (),
        *,
        tools: Sequence[Tool] = (),
        prompt: str | None = None,
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        grammar: Grammar | None = None,
        logprobs: int | None = None,
        pipeline: str = PIPELINE,
        stats: bool = False,
        patience_s: float = DEFAULT_PATIENCE_S,
    ) -> Answer:
        """Ask a question, and return the answer to come; see `Question` for the fields, and `submit` for errors."""
        wanted = sampling or Sampling()
        return self.submit(Question(
            messages=tuple(messages), tools=tuple(tools), prompt=prompt, max_tokens=max_tokens, sampling=wanted,
            stop=tuple(stop), grammar=grammar, logprobs=logprobs, pipeline=pipeline, stats=stats,
            patience_s=patience_s,
        ))  # fmt: skip

    def submit(self, question: Question) -> Answer:
        """Ask a question, and return the answer to come.

        Raises:
            MessageError: outside the limits of `SubmitRequest`.
            QuestionTooLong: the broker does not pass it on, or no message may be so long.
        """
        submit, size_bytes = self.worded(question)
        if size_bytes > SURE_BYTES:
            known_bytes = None
            # Nobody is there to answer either, which the silence after it shows; or it is not ours to ask.
            with suppress(NoOrchestrator, ControlRefused):
                known_bytes = self.status().max_message_bytes
            self.check_length(size_bytes, known_bytes)
        return Answer(self, self.reader.submit(submit))

    def worded(self, question: Question) -> tuple[SubmitRequest, int]:
        """A question as the orchestrator is asked it, and the message's length in bytes; errors as in `submit`."""
        submit = question.submit(client=self._name, connection=self._connection, lease_s=self._lease_s)
        try:
            payload = encode(submit)
        except MessageTooLong as error:
            raise QuestionTooLong(error.size_bytes, error.limit_bytes) from None
        decode(payload, SubmitRequest)  # the orchestrator drops what is outside the contract's limits, without a word
        return submit, len(payload)

    def check_length(self, size_bytes: int, known_bytes: int | None) -> None:
        """Refuse a question longer than the broker says it takes, or than the orchestrator knows from nodes."""
        limit_bytes = self.bus.max_payload_bytes - LONGEST_TOPIC_BYTES
        limit_bytes = limit_bytes if known_bytes is None else min(limit_bytes, known_bytes)
        if size_bytes > limit_bytes:
            raise QuestionTooLong(size_bytes, limit_bytes)

    # --- commands ---------------------------------------------------------------------------------------------

    def command(self, command: OperatorRequest, *answers: type[Reply], timeout_s: float | None = None) -> Reply:
        """Give the orchestrator a command and return its answer, which is of one of the types ``answers``.

        Raises:
            NoOrchestrator: no answer in time.
            ControlRefused: it says no, or the broker does.
            MessageError: the command can't be sent, or the answer is none of the contract.
        """
        wait_s = self._control_timeout_s if timeout_s is None else timeout_s
        if wait_s > self._control_timeout_s:
            self.status()  # what takes long is not awaited where nobody is
        request = self.calls.begin(command)
        try:
            deadline_s = time.monotonic() + wait_s
            while not self.calls.is_answered(request):
                remaining_s = deadline_s - time.monotonic()
                if remaining_s <= 0:
                    raise NoOrchestrator(self.broker)
                self._poll(remaining_s)
            return self.calls.take(request, *answers)
        finally:
            self.calls.forget(request)

    # --- events and streams -----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Subscribe to events from now on."""
        self.bus.subscribe([EVENT.filter()])

    def events(self, timeout_s: float | None = None) -> list[FleetEvent]:
        """Wait for something and return the events since the last call."""
        if not self._events:
            self._poll(self._silence_s if timeout_s is None else timeout_s)
        return self.heard_events()

    def heard_events(self) -> list[FleetEvent]:
        """The events since the last call, without waiting."""
        heard, self._events = self._events, []
        return heard

    def wake(self) -> None:
        """End a wait in `receive` early; the only method for other threads."""
        self._woken = True
        self.bus.wake()

    def send_cancel(self, request: str) -> None:
        """Tell the orchestrator that nobody wants this answer any more."""
        self.reader.cancel(request)

    def leave(self, request: str) -> None:
        """Read no more of an answer, and cancel it unless it has ended."""
        if self.reader.leave(request) and self.bus.connected:
            self.send_cancel(request)

    def receive(self, request: str) -> list[StreamMessage]:
        """Wait for something, half a second at the most, and return what has arrived for this request.

        Raises:
            AnswerIncomplete: the answer was left, or what it needs was missing for longer than its patience.
        """
        stream = self.reader.get(request)
        if stream is None:
            raise AnswerIncomplete("the answer was left before its end: ask again")
        if not stream.waiting and not self._poll(LOOK_S):
            self.reader.check(request)
        return self._taken(request)

    def _taken(self, request: str) -> list[StreamMessage]:
        stream = self.reader.get(request)
        assert stream
        messages, stream.waiting = stream.waiting, []
        if any(isinstance(message, StreamEnd | StreamError) for message in messages):
            self.reader.leave(request)
        return messages

    def receive_all(self) -> dict[str, list[StreamMessage] | AnswerIncomplete]:
        """Return what has arrived of all answers, by request, without waiting.

        An answer that needs what was missing for longer than its patience has the error instead, and is left.
        """
        self._poll(0.0)
        arrived: dict[str, list[StreamMessage] | AnswerIncomplete] = {}
        for stream in tuple(self.reader.streams):
            if stream.waiting:
                arrived[stream.submit.request] = self._taken(stream.submit.request)
        if time.monotonic() >= self._check_s:  # not with each token of each answer
            self._check_s = time.monotonic() + LOOK_S
            arrived |= self._given_up()
        return arrived

    def _given_up(self) -> dict[str, list[StreamMessage] | AnswerIncomplete]:
        found: dict[str, list[StreamMessage] | AnswerIncomplete] = {}
        for request in self.reader.requests:
            try:
                self.reader.check(request)
            except AnswerIncomplete as error:
                found[request] = error
                self.leave(request)
        return found

    def waiting(self, request: str) -> Waiting | None:
        """What an answer waits for; None while it is being computed."""
        return self.reader.waiting(request)

    def _poll(self, timeout_s: float) -> bool:
        """Sort what arrives; False when time ran out. What is being read is renewed meanwhile."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            if time.monotonic() >= self.reader.due_s:
                self.reader.act()
            events = self.bus.poll(max(0.0, min(deadline_s, self.reader.due_s) - time.monotonic()))
            for event in events:
                if isinstance(event, Delivery):
                    self._sort(event)
                elif isinstance(event, Disconnected):
                    self.reader.lost()
                elif isinstance(event, Connected) and event.reconnect:
                    self.reader.reconnected()
                elif isinstance(event, Refused):
                    self._on_refused(event)
            if events or self._woken or time.monotonic() >= deadline_s:
                self._woken = False
                return time.monotonic() < deadline_s

    def _on_refused(self, refused: Refused) -> None:
        if place := CONTROL_SUBMIT.match(refused.topic):
            self.calls.refused(place["request"], refused)
        elif REQUEST_SUBMIT.match(refused.topic):
            self.reader.refused(refused)

    def _sort(self, delivery: Delivery) -> None:
        try:
            if place := CONTROL_REPLY.match(delivery.topic):
                self.calls.heard(place["request"], delivery.payload)
                self.reader.heard()
            elif ORCHESTRATOR_STATUS.match(delivery.topic):
                self.reader.heard_status(delivery.payload)
            elif EVENT.match(delivery.topic):
                self._events.append(decode(delivery.payload, FleetEvent))
            elif REQUEST_STREAM.match(delivery.topic):
                self.reader.take(decode(delivery.payload, *REQUEST_STREAM.messages))
        except ContractError:
            return  # not ours to judge; the places of pieces show what is missing
