"""An orchestrator that says what a test wants, on the in-memory bus, in a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import schemas
from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from orchestrator.client import Client
from schemas.contract import dump, load
from schemas.messages import (
    MESSAGES,
    CancelRequest,
    OperatorRefusal,
    RenewRequest,
    StageTiming,
    StreamEnd,
    StreamError,
    StreamStatus,
    StreamText,
    SubmitRequest,
    decode,
    encode,
    name_of,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, REQUEST_CANCEL, REQUEST_RENEW, REQUEST_STREAM, REQUEST_SUBMIT
from tests.support.polling import DEADLINE_S

EXAMPLES = Path(schemas.__file__).parent / "examples" / "good"
StreamMessage = StreamText | StreamStatus | StreamEnd | StreamError
Script = Callable[[SubmitRequest], list[StreamMessage]]


def piece(request: str, text: str, before: Sequence[str] = ()) -> StreamText:
    """A piece of an answer, behind others; each is of one token."""
    return StreamText(
        request=request,
        first_token=len(before),
        first_character=len("".join(before)),
        text=text,
        token_ids=(len(before),),
    )


def pieces(request: str, texts: Sequence[str]) -> list[StreamMessage]:
    """The pieces of an answer."""
    return [piece(request, text, texts[:number]) for number, text in enumerate(texts)]


def end(
    request: str,
    reason: Any = "stop",
    *,
    tokens: int = 2,
    stages: tuple[StageTiming, ...] = (),
    before: Sequence[str] = (),
) -> StreamEnd:
    """The end of an answer, behind all of its pieces."""
    return StreamEnd(
        request=request, finish_reason=reason, prompt_tokens=5, completion_tokens=tokens, ttft_s=0.25, total_s=0.75,
        stages=stages, text_tokens=len(before), text_characters=len("".join(before)),
    )  # fmt: skip


def paris(submit: SubmitRequest) -> list[StreamMessage]:
    """The word Paris in two pieces, with the figures of one stage when they are asked for."""
    timing = StageTiming(
        node="phone", stage=0, prefill_s=0.1, decode_s=0.02, decode_steps=4, positions=9, decode_bytes_out=4608
    )
    stages = (timing,) if submit.stats else ()
    return [*pieces(submit.request, ("Par", "is.")), end(submit.request, stages=stages)]


def goes_on(renew: RenewRequest) -> list[StreamMessage]:
    """Somebody is there, and there is nothing new."""
    return [StreamStatus(request=renew.request)] if renew.repeat else []


@dataclass(frozen=True)
class Command:
    """What an operator sent."""

    operation: str
    arguments: dict[str, Any]


def answer_to(operation: str, said: dict[str, Any] | str) -> Any:
    """An operator's answer: what a test says of it, and the example's members where the test doesn't care."""
    if isinstance(said, str):
        return OperatorRefusal(reason=said)
    feasible = said.get("explanation", {}).get("feasible", True)
    name = f"control.{operation}.{'reply' if feasible else 'no_plan'}"
    example = json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    del example["type"], example["v"]
    return load(MESSAGES[name], _completed(said, example))


def _completed(said: Any, example: Any) -> Any:
    if isinstance(said, dict) and isinstance(example, dict):
        # progress is by node: nothing is missing in it.
        keys = {key: value if key == "progress" else _completed(value, example.get(key)) for key, value in said.items()}
        return {**example, **keys}
    if isinstance(said, list) and isinstance(example, list) and example:
        return [_completed(item, example[0]) for item in said]
    return said


@dataclass
class FakeOrchestrator:
    """Answers commands of operators from a table (a string is a refusal) and prompts by ``answer``."""

    broker: MemoryBroker = field(default_factory=MemoryBroker)
    control: dict[str, dict[str, Any] | str] = field(default_factory=lambda: {"status": {}})
    answer: Script = paris
    on_submitted: Callable[[], None] = lambda: None
    """Called in the orchestrator's thread after the answer's messages were sent."""
    patience_s: float = DEADLINE_S
    """How long clients wait for the reply to a command."""
    silence_s: float = 0.2
    """How long they take silence for granted."""
    on_commanded: Callable[[], None] = lambda: None
    """Called in the orchestrator's thread before a command is answered."""
    on_renewed: Callable[[RenewRequest], list[StreamMessage]] = goes_on
    """What a renewal is answered with."""
    submitted: list[SubmitRequest] = field(default_factory=list)
    commanded: list[Command] = field(default_factory=list)
    cancelled: list[CancelRequest] = field(default_factory=list)
    renewed: list[RenewRequest] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._bus = MemoryBus(self.broker, client_id="orchestrator")
        self._bus.connect()
        rows = (REQUEST_SUBMIT, REQUEST_CANCEL, REQUEST_RENEW, CONTROL_SUBMIT)
        self._bus.subscribe([row.filter() for row in rows], qos=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake orchestrator")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._bus.wake()
        self._thread.join()
        self._bus.close()

    def connect(self, *_arguments: object, remedy: str | None = None, **_options: object) -> Client:
        """Stands in for `Client.connect`."""
        bus = MemoryBus(self.broker, client_id="client")
        bus.connect()
        return Client(
            bus,
            name="client",
            broker="mqtt://memory:1883",
            remedy=remedy,
            silence_s=self.silence_s,
            control_timeout_s=self.patience_s,
        )

    def settle(self) -> None:
        """Return when all that was sent to it so far has been handled."""
        with self.connect() as client:
            client.status()

    def _run(self) -> None:
        while not self._stop.is_set():
            for event in self._bus.poll(None):
                if isinstance(event, Delivery):
                    self._handle(event)

    def _handle(self, delivery: Delivery) -> None:
        if place := CONTROL_SUBMIT.match(delivery.topic):
            command = decode(delivery.payload, *CONTROL_SUBMIT.messages)
            operation = name_of(type(command)).removeprefix("control.")
            self.commanded.append(Command(operation, dump(command)))
            self.on_commanded()
            said = self.control.get(operation)
            if said is not None:
                self._bus.publish(CONTROL_REPLY.format(**place), encode(answer_to(operation, said)), qos=1)
        elif place := REQUEST_CANCEL.match(delivery.topic):
            cancel = decode(delivery.payload, CancelRequest)
            self.cancelled.append(cancel)
            self._stream(place["client"], end(cancel.request, "cancelled"))
        elif place := REQUEST_RENEW.match(delivery.topic):
            renew = decode(delivery.payload, RenewRequest)
            self.renewed.append(renew)
            for message in self.on_renewed(renew):
                self._stream(place["client"], message)
        else:
            submit = decode(delivery.payload, SubmitRequest)
            self.submitted.append(submit)
            for message in self.answer(submit):
                self._stream(submit.client, message)
            self.on_submitted()

    def _stream(self, client: str, message: StreamMessage) -> None:
        topic = REQUEST_STREAM.format(client=client, request=message.request)
        self._bus.publish(topic, encode(message), qos=1)
