"""The participants of a simulated fleet: nodes around their real cores, the real service of the orchestrator, and
clients around their real readers. The model is fake, and time is simulated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from broker.bus import Connected, Delivery, Disconnected, Event, Subscribed, Will
from edge_node.effects import (
    CopyPrefix,
    Effect,
    LoadSegment,
    Register,
    Reply,
    SendFrame,
    SendKvRows,
    Stop,
    Subscribe,
    UnloadSegment,
    Unsubscribe,
    WriteKvRows,
)
from edge_node.stage_spec import StageKey
from edge_node.telemetry.pace import Pace
from edge_node.wire.outbox import Outbox
from edge_node.wire.outbox import will_of as node_will
from edge_node.wire.topics import data_route
from orchestrator.client import answer_reader
from orchestrator.client.answer_reader import AnswerReader
from orchestrator.client.client import LEASE_S
from orchestrator.client.errors import AnswerIncomplete
from orchestrator.errors import Superseded
from orchestrator.model.manifest import LayerCache, Manifest
from orchestrator.planning.problem import Problem
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.service import service as service_module
from orchestrator.service import tenure
from orchestrator.service import worker as worker_module
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.incumbent import PROOF_S
from orchestrator.service.incumbent import will_of as orchestrator_will
from orchestrator.service.run import KEEPALIVE_S
from orchestrator.service.service import Service
from orchestrator.service.worker import Worker
from schemas.codec import decode_frames
from schemas.errors import ContractError
from schemas.messages import (
    ClientWill,
    NodeBirth,
    OrchestratorStatus,
    StreamEnd,
    StreamError,
    StreamText,
    SubmitRequest,
    decode,
    encode,
)
from schemas.topics import (
    CLIENT_WILL,
    NODE_COMMAND,
    NODE_HEARTBEAT,
    ORCHESTRATOR_STATUS,
    PLAN,
    REQUEST_STREAM,
)
from tests.support.orchestrating import BLOB_URL, plan_quickly
from tests.support.scripted_fleet import TinyStore
from tests.support.scripted_nodes import MB, make_birth, make_heartbeat, make_manifest
from tests.support.simulated_network import Clock, SimulatedBroker, SimulatedBus
from tests.support.simulated_ring import SimulatedNode

CONTEXT_TOKENS = 256
SLOTS = 4
CHUNK_TOKENS = 8
SHARE = 0.45
"""Of the model, on a node."""
POSITION_S = 0.004
LOAD_S = 0.4
JOB_S = 0.03
START_S = 0.5
"""From the start of a process to its connection."""
TURN_S = 0.0001
WATCHDOG_S = 1.0


def letter_of(output: int) -> int:
    """The fake model's tokens are letters."""
    return ord("a") + output % 26


def make_narrow_manifest() -> Manifest:
    """The tiny model, one value wide in each position, as the fake model is."""
    manifest = make_manifest()
    layers = tuple(
        LayerCache(layer.layer, 1, 1, 1, 0, "float32", None) for layer in manifest.layers
    )  # fmt: skip
    boundaries = tuple(replace(boundary, width=1) for boundary in manifest.boundaries)
    return replace(manifest, layers=layers, boundaries=boundaries)


@functools.cache
def node_memory_mb() -> int:
    """Memory of a node: any three hold the model, with room to move layers, and two do not."""
    birth = make_birth("any", memory_mb=0)
    problem = build_problem(
        make_narrow_manifest(), [birth], context_tokens=CONTEXT_TOKENS, slots=SLOTS, wire_dtype="fp32",
        chunk_tokens=CHUNK_TOKENS,
    )  # fmt: skip
    return round((problem.fixed_bytes(problem.devices[0]) + SHARE * problem.chain_bytes) / MB)


# --- a node ---------------------------------------------------------------------------------------------------


class Process:
    """A process with a connection of its own: it can be killed, frozen and started again."""

    def __init__(self, clock: Clock, broker: SimulatedBroker) -> None:
        self.is_alive = self.is_frozen = False
        self.bus: SimulatedBus | None = None
        self._clock = clock
        self._broker = broker
        self._starts = 0

    def kill(self) -> None:
        """End it as if the power failed."""
        if self.is_alive and self.bus:
            self.is_alive = False
            self.bus.kill()

    def freeze(self) -> None:
        """Stop it where it is."""
        if self.is_alive and self.bus:
            self.is_frozen = True
            self.bus.freeze()

    def thaw(self) -> None:
        """Let it go on."""
        if self.is_frozen and self.bus:
            self.is_frozen = False
            self.bus.thaw()

    def _is_same(self, start: int) -> bool:
        return self.is_alive and start == self._starts


class Node(Process):
    """A node's process: it can be killed, frozen and started again."""

    def __init__(self, name: str, clock: Clock, broker: SimulatedBroker) -> None:
        super().__init__(clock, broker)
        self.name = name

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.is_alive:
            return
        self.is_alive, self.is_frozen = True, False
        self._starts += 1
        self.birth: NodeBirth = make_birth(self.name, incarnation=self._starts, memory_mb=node_memory_mb())
        self._part = SimulatedNode(
            self.name, position_s=POSITION_S, watchdog_min_s=WATCHDOG_S, incarnation=self._starts,
            memory_bytes=self.birth.memory_bytes, token_of=letter_of,
        )  # fmt: skip
        self.core = self._part.core
        start = self._starts
        self.bus = SimulatedBus(
            self._broker, f"node-{self.name}-{start}", will=node_will(self.name, start),
            wake=lambda: self._soon(start),
        )  # fmt: skip
        self._outbox = Outbox(self.bus, node=self.name, incarnation=start)
        self._own: list[Event] = []
        self._pace = Pace(1.0)
        self._wakes: set[float] = set()
        self._clock.after(START_S, lambda: self._begin(start))

    def _begin(self, start: int) -> None:
        if not self._is_same(start):
            return
        assert self.bus
        self.bus.connect()
        self.bus.subscribe([NODE_COMMAND.filter(node=self.name), PLAN.filter()], qos=1)
        self._outbox.register(self.birth, leaving="")

    def _soon(self, start: int) -> None:
        self._clock.after(0.0, lambda: self._turn(start))

    def _at(self, at_s: float) -> None:
        """Wake up at a time; several calls for one time are one."""
        if at_s not in self._wakes:
            self._wakes.add(at_s)
            start = self._starts

            def wake() -> None:
                if self._is_same(start):
                    self._wakes.discard(at_s)
                    self._turn(start)

            self._clock.at(at_s, wake)

    def _turn(self, start: int) -> None:
        """One round of the service's loop."""
        if not self._is_same(start) or self.is_frozen or self._part.busy or not self.bus:
            return
        now_s = self._clock.now_s
        events = [*self._own, *self.bus.poll()]
        self._own.clear()
        is_idle = not self.core.has_work and not self.core.has_transfer
        if len(events) == 1 and is_idle and self._step(events[0]):
            return
        for event in events:
            self._event(event)
        self._do(self.core.tick(now_s))
        self._do(self.core.next_transfer(now_s))
        if self.core.has_work:
            self._work()
        if now_s >= self._pace.due_s(now_s, serving=self.core.has_requests):
            self._say_how_it_is()
        if not self._part.busy:
            if self._own or self.core.has_work or self.core.has_transfer:
                self._at(now_s + TURN_S)
            deadline_s = self.core.next_deadline_s()
            heartbeat_s = self._pace.due_s(now_s, serving=self.core.has_requests)
            self._at(min(heartbeat_s, deadline_s or heartbeat_s))

    def _event(self, event: Event) -> None:
        match event:
            case Delivery():
                with suppress(ContractError):
                    self._delivery(event)
            case Subscribed(patterns):
                self._do(self.core.subscribed(patterns))
            case Connected(reconnect=True):
                self._outbox.register(self.birth, leaving="")

    def _delivery(self, delivery: Delivery) -> None:
        self._pace.stirred(self._clock.now_s)
        if route := data_route(delivery.topic):
            pipeline, stage, sender = route
            for frame in decode_frames(delivery.payload):
                self._do(self.core.frame(pipeline, stage, sender, frame, self._clock.now_s))
        elif NODE_COMMAND.match(delivery.topic):
            self._do(self.core.message(decode(delivery.payload, *NODE_COMMAND.messages)))
        elif delivery.payload:
            self._do(self.core.message(decode(delivery.payload, *PLAN.messages)))

    def _step(self, event: Event) -> bool:
        """A step of an answer that came alone, the short way."""
        if not isinstance(event, Delivery):
            return False
        fast_path = self.core.fast_path(event.topic, event.payload, self._clock.now_s)
        if fast_path is None:
            return False
        result, compute_s = self._part.step(fast_path)
        self._part.busy = True

        def finish() -> None:
            self._send(fast_path.topic, fast_path.frame(result, self._clock.now_s))
            fast_path.settle(compute_s, self._clock.now_s)

        self._after_computing(compute_s, finish)
        return True

    def _work(self) -> None:
        work, effects = self.core.next_work()
        self._do(effects)
        if work is None:
            return
        result = self._part.compute(work)
        self._part.busy = True
        self._after_computing(result.compute_s, lambda: self._do(self.core.computed(work, result, self._clock.now_s)))

    def _after_computing(self, compute_s: float, finish: Callable[[], None]) -> None:
        start = self._starts

        def done() -> None:
            if not self._is_same(start):
                return
            if self.is_frozen:  # what a process does when it goes on
                self._clock.after(0.05, done)
                return
            self._part.busy = False
            finish()
            self._turn(start)

        self._clock.after(compute_s, done)

    def _say_how_it_is(self) -> None:
        next_s = self._pace.said(None, self._clock.now_s, serving=self.core.has_requests)
        beat = make_heartbeat(self.name, self.birth.incarnation)
        beat = replace(beat, stages=self.core.metrics(), next_s=next_s)
        self._outbox.publish(NODE_HEARTBEAT.format(node=self.name), beat, qos=0)

    def _do(self, effects: Sequence[Effect]) -> None:
        assert self.bus
        part, start = self._part, self._starts
        for effect in effects:
            match effect:
                case SendFrame():
                    self._send(effect.topic, bytes(effect.data))
                case Reply():
                    self._outbox.reply(effect.message)
                case LoadSegment():
                    part.load(effect)
                    self._clock.after(
                        0.001 if effect.same_segment else LOAD_S,
                        functools.partial(self._loaded, start, effect.spec.key),
                    )
                case Subscribe():
                    self.bus.subscribe(effect.patterns, qos=1)
                case Unsubscribe():
                    self.bus.unsubscribe(effect.patterns)
                case CopyPrefix():
                    part.copy_prefix(effect)
                case SendKvRows():
                    self._outbox.send_rows(effect.topic, part.read_rows(effect))
                case WriteKvRows():
                    part.write_rows(effect)
                case UnloadSegment():
                    part.unload(effect.key)
                case Register():
                    self._outbox.register(self.birth, leaving="")
                case Stop():
                    self.kill()

    def _send(self, topic: str, data: bytes) -> None:
        assert self.bus
        self.bus.publish(topic, data)
        if topic in self.core.kept_topics:
            self._own.append(Delivery(topic, data, 0, False))

    def _loaded(self, start: int, key: StageKey) -> None:
        if not self._is_same(start):
            return
        if self.is_frozen:
            self._clock.after(0.05, functools.partial(self._loaded, start, key))
            return
        self._do(self.core.loaded(key, rss_bytes=1, peak_rss_bytes=1, downloaded_bytes=0, load_s=LOAD_S))
        self._soon(start)


# --- the orchestrator -----------------------------------------------------------------------------------------


def time_of(clock: Clock) -> SimpleNamespace:
    """What takes the place of the module ``time``."""
    return SimpleNamespace(monotonic=lambda: clock.now_s, time=lambda: clock.now_s)


@contextmanager
def instead(*patches: tuple[ModuleType, str, object]) -> Iterator[None]:
    """Other things in modules for a while: a hundred times as fast as `mock.patch`, which a turn can't afford."""
    before = [getattr(module, name) for module, name, _ in patches]
    for module, name, thing in patches:
        setattr(module, name, thing)
    try:
        yield
    finally:
        for (module, name, _), thing in zip(patches, before, strict=True):
            setattr(module, name, thing)


@functools.cache
def _plan(problem: Problem) -> Any:
    return plan_quickly(problem)


_preview = functools.cache(worker_module.preview)
"""Most schedules end with the same fleet."""


class _Store(TinyStore):
    """A model of the width of the fake one."""

    def __init__(self) -> None:
        super().__init__(make_narrow_manifest())
        self.wire = "fp32"

    @staticmethod
    def _segment(start: int, stop: int, *, wire: str, positions: int | None = None) -> Any:
        segment = TinyStore._segment(start, stop, wire=wire, positions=positions)
        segment.width_in, segment.width_out = 1 if start else None, 1 if stop < 6 else None
        return segment


class _Worker(Worker):
    """Does each job at once, and tells of it a moment later."""

    clock: Clock

    def __init__(self, store: Any, *, wake: Callable[[], None], solve: Any) -> None:
        with instead((worker_module, "_JobThread", mock.Mock)):
            super().__init__(store, wake=wake, solve=solve)

    def submit(self, job: Any) -> None:
        self.clock.after(JOB_S, lambda: self._run(job))

    def _do(self, job: Any) -> Any:
        with instead((worker_module, "preview", _preview)):
            return super()._do(job)

    def close(self) -> None:
        pass


class Orchestrator(Process):
    """The orchestrator's process, and those that came before it."""

    def __init__(
        self, clock: Clock, broker: SimulatedBroker, folder: Path, draft_tokens: int, *, takes_over: int = 0
    ) -> None:
        """``takes_over``: from how many orchestrators before it, none of which has ended."""
        super().__init__(clock, broker)
        self._takes_over = takes_over
        self._time = time_of(clock)
        self.superseded = False
        self._database = Database(folder / "state.sqlite3")
        self._config = ServiceConfig(
            broker_url="mqtt://127.0.0.1", data_dir=folder, context_tokens=CONTEXT_TOKENS, slots=SLOTS,
            wire_dtype="fp32", chunk_tokens=CHUNK_TOKENS, draft_tokens=draft_tokens, pipelines=1, balance=False,
            min_nodes=3,
        )  # fmt: skip
        self.service: Service | None = None
        self._wake_s = 0.0

    def _in_its_time(self) -> AbstractContextManager[None]:
        """Patch the clock of the modules that look at it."""
        _Worker.clock = self._clock
        return instead(
            (service_module, "time", self._time),
            (tenure, "time", self._time),
            (service_module, "Worker", _Worker),
            (worker_module, "probe_parts", lambda *args, **options: ()),
        )

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.is_alive:
            return
        self.is_alive, self.is_frozen = True, False
        self._starts += 1
        start = self._starts
        name = f"{self._takes_over:04x}{start:04x}"
        self.bus = SimulatedBus(
            self._broker, f"orchestrator-{name}", will=orchestrator_will("main", name), keepalive_s=KEEPALIVE_S,
            wake=lambda: self._clock.after(0.0, lambda: self._turn(start)),
        )  # fmt: skip
        self.service = None
        self._clock.after(START_S, lambda: self._ask(start, name))

    def _ask(self, start: int, name: str) -> None:
        """Look who serves; one that is said to be here is given time to say so."""
        if not self._is_same(start):
            return
        if not self._broker.is_up or not self.bus or not self.bus.link_is_up or self.bus.link_is_silent:
            self._clock.after(0.3, lambda: self._ask(start, name))
            return
        said = self._broker.retained.get(ORCHESTRATOR_STATUS.format(pipeline="main"))
        last = decode(said, OrchestratorStatus) if said else None
        wait_s = PROOF_S if last and last.state == "here" and not self._takes_over else 0.0
        self._clock.after(wait_s, lambda: self._begin(start, name, last))

    def _begin(self, start: int, name: str, last: OrchestratorStatus | None) -> None:
        if not self._is_same(start):
            return
        assert self.bus
        with self._in_its_time():
            self.service = Service(
                self._config, self.bus, _Store(), self._database, blob_urls=(BLOB_URL,), solve=_plan,
                orchestrator=name, last=last,
            )  # type: ignore[arg-type]  # fmt: skip
        self.bus.connect()
        self.service.begin()
        self._turn(start)

    @property
    def serves(self) -> bool:
        """Is it awake, and does it serve?"""
        return self.is_alive and not self.is_frozen and self.service is not None

    def kill(self) -> None:
        """End it: what it has not written is lost."""
        super().kill()
        self.service = None

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _turn(self, start: int) -> None:
        if not self._is_same(start) or self.is_frozen or self.service is None:
            return
        try:
            with self._in_its_time():
                self.service.turn()
        except Superseded:
            self.superseded = True
            self.kill()
            return
        # A deadline that is over is one more turn, not an endless loop.
        due_s = max(self.service.due_s, self._clock.now_s + TURN_S)
        if not self._clock.now_s < self._wake_s <= due_s and due_s < float("inf"):
            self._wake_s = due_s
            self._clock.at(due_s, lambda: self._turn(start))


# --- a client -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one question. ``error`` is empty where there is an answer."""

    request: str
    question: int
    token_ids: tuple[int, ...]
    text: str
    began_s: float
    ended_s: float
    error: str = ""


class Client:
    """Somebody who keeps asking, one question after the other, until told to stop."""

    def __init__(
        self, name: str, clock: Clock, broker: SimulatedBroker, questions: Callable[[], tuple[int, SubmitRequest]]
    ) -> None:
        """``questions`` gives the number of the next one, and the question."""
        self.name = name
        self.is_done = False
        self.stops = False
        self.outcomes: list[Outcome] = []
        self._clock, self._time = clock, time_of(clock)
        self._questions = questions
        will = Will(CLIENT_WILL.format(client=name), encode(ClientWill(client=name)), qos=1, retain=False)
        self.bus = SimulatedBus(broker, name, will=will, wake=lambda: clock.after(0.0, self._turn))
        self._reader = AnswerReader(self.bus, name=name, broker="the broker")
        self._request = ""
        self._wake_s = 0.0

    def _in_its_time(self) -> AbstractContextManager[None]:
        return instead((answer_reader, "time", self._time))

    def start(self) -> None:
        """Connect and ask the first question."""
        self.bus.connect()
        self.bus.subscribe([REQUEST_STREAM.filter(client=self.name)], qos=1)
        self._ask()

    def _ask(self) -> None:
        self._question, submit = self._questions()
        submit = replace(submit, client=self.name, lease_s=LEASE_S)
        self._request, self._began_s = submit.request, self._clock.now_s
        self._ids: list[int] = []
        self._text = ""
        with self._in_its_time():
            self._reader.submit(submit)
        self._turn()

    def _turn(self) -> None:
        if self.is_done:
            return
        error = ""
        ended = False
        with self._in_its_time():
            for event in self.bus.poll():
                match event:
                    case Delivery():
                        with suppress(ContractError):
                            self._reader.take(decode(event.payload, *REQUEST_STREAM.messages))
                    case Disconnected():
                        self._reader.lost()
                    case Connected(reconnect=True):
                        self._reader.reconnected()
            stream = self._reader.get(self._request)
            if stream is None:  # it has ended, and the next one was not asked yet
                return
            if self._clock.now_s >= self._reader.due_s:
                self._reader.act()
            for message in stream.waiting:
                match message:
                    case StreamText():
                        self._ids += message.token_ids
                        self._text += message.text
                    case StreamEnd():
                        ended = True
                    case StreamError():
                        ended, error = True, f"{message.code}: {message.reason}"
            stream.waiting.clear()
            try:
                self._reader.check(self._request)
            except AnswerIncomplete as incomplete:
                ended, error = True, str(incomplete)
            if ended:
                self._reader.leave(self._request)
        if ended:
            self._over(error)
            return
        due_s = min(self._reader.due_s, self._clock.now_s + 1.0)
        if not self._clock.now_s < self._wake_s <= due_s:
            self._wake_s = due_s
            self._clock.at(due_s, self._turn)

    def _over(self, error: str) -> None:
        self.outcomes.append(
            Outcome(
                self._request, self._question, tuple(self._ids), self._text, self._began_s, self._clock.now_s, error
            )
        )
        if self.stops:
            self.is_done = True
            return
        self._clock.after(0.2 if error else 0.001, self._ask)
