"""An orchestrator that says what a test wants, on the in-memory bus, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from orchestrator.client import Client
from schemas.messages import (
    CancelRequest,
    ControlReply,
    ControlRequest,
    StageTiming,
    StreamEnd,
    StreamError,
    StreamText,
    SubmitRequest,
    decode,
    encode,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, REQUEST_CANCEL, REQUEST_STREAM, REQUEST_SUBMIT
from tests.support.polling import DEADLINE_S

StreamMessage = StreamText | StreamEnd | StreamError
Script = Callable[[SubmitRequest], list[StreamMessage]]


def piece(request: str, sequence: int, text: str) -> StreamText:
    """A piece of an answer."""
    return StreamText(request=request, sequence=sequence, text=text, token_ids=(sequence,))


def end(request: str, reason: Any = "stop", *, tokens: int = 2, stages: tuple[StageTiming, ...] = ()) -> StreamEnd:
    """The end of an answer."""
    return StreamEnd(
        request=request, finish_reason=reason, prompt_tokens=5, completion_tokens=tokens, ttft_s=0.25, total_s=0.75,
        stages=stages,
    )  # fmt: skip


def paris(submit: SubmitRequest) -> list[StreamMessage]:
    """The word Paris in two pieces, with the figures of one stage when they are asked for."""
    timing = StageTiming(
        node="phone", stage=0, prefill_s=0.1, decode_s=0.02, decode_steps=4, positions=9, decode_bytes_out=4608
    )
    stages = (timing,) if submit.stats else ()
    return [piece(submit.request, 0, "Par"), piece(submit.request, 1, "is."), end(submit.request, stages=stages)]


@dataclass
class FakeOrchestrator:
    """Answers ``control`` operations from a table (a string is a refusal) and prompts by ``answer``."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    control: dict[str, dict[str, Any] | str] = field(default_factory=lambda: {"status": {}})
    answer: Script = paris
    on_submitted: Callable[[], None] = lambda: None
    """Called in the orchestrator's thread after the answer's messages were sent."""
    patience_s: float = DEADLINE_S
    """How long clients wait for the reply to a command."""
    on_commanded: Callable[[], None] = lambda: None
    """Called in the orchestrator's thread before a command is answered."""
    submitted: list[SubmitRequest] = field(default_factory=list)
    commanded: list[ControlRequest] = field(default_factory=list)
    cancelled: list[CancelRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._bus = MemoryBus(self.broker, client_id="orchestrator")
        self._bus.connect()
        self._bus.subscribe([row.filter() for row in (REQUEST_SUBMIT, REQUEST_CANCEL, CONTROL_SUBMIT)], qos=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake orchestrator")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._bus.wake()
        self._thread.join()
        self._bus.close()

    def connect(self, *_arguments: object, **_options: object) -> Client:
        """Stands in for `Client.connect`."""
        bus = MemoryBus(self.broker, client_id="client")
        bus.connect()
        return Client(bus, name="client", broker="mqtt://memory:1883", silence_s=0.2, control_timeout_s=self.patience_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            for event in self._bus.poll(None):
                if isinstance(event, Delivery):
                    self._handle(event)

    def _handle(self, delivery: Delivery) -> None:
        if CONTROL_SUBMIT.match(delivery.topic):
            command = decode(delivery.payload, ControlRequest)
            self.commanded.append(command)
            self.on_commanded()
            result = self.control.get(command.operation)
            if result is not None:
                refused = isinstance(result, str)
                reply = ControlReply(
                    request=command.request,
                    ok=not refused,
                    reason=result if isinstance(result, str) else "",
                    result={} if isinstance(result, str) else result,
                )
                self._bus.publish(
                    CONTROL_REPLY.format(client=command.client, request=command.request), encode(reply), qos=1
                )
        elif place := REQUEST_CANCEL.match(delivery.topic):
            cancel = decode(delivery.payload, CancelRequest)
            self.cancelled.append(cancel)
            self._stream(place["client"], end(cancel.request, "cancelled"))
        else:
            submit = decode(delivery.payload, SubmitRequest)
            self.submitted.append(submit)
            for message in self.answer(submit):
                self._stream(submit.client, message)
            self.on_submitted()

    def _stream(self, client: str, message: StreamMessage) -> None:
        topic = REQUEST_STREAM.format(client=client, request=message.request)
        self._bus.publish(topic, encode(message), qos=1)
