"""The node's shell: one thread that polls the bus, runs segments and publishes; it decides nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from broker.bus import Bus, Connected, Delivery, Disconnected, Event, Refused, Subscribed, Will
from broker.errors import PayloadTooLarge
from broker.mqtt import MqttBus
from edge_node.config import NodeConfig, read_speed
from edge_node.core import NodeCore
from edge_node.effects import (
    CopyPrefix,
    Effect,
    LoadSegment,
    Register,
    Reply,
    SendFrame,
    SendHeartbeat,
    SendKvRows,
    StandBy,
    Stop,
    Subscribe,
    UnloadSegment,
    Unsubscribe,
    WriteKvRows,
)
from edge_node.errors import NodeError, NodeRefused
from edge_node.guest.guest import Guest
from edge_node.notices import Notices
from edge_node.runtime.check_schedule import CheckSchedule
from edge_node.runtime.provider_choice import ProviderChoice
from edge_node.runtime.segment_runner import SegmentRunner
from edge_node.storage.blob_access import BlobAccess
from edge_node.storage.blob_store import BlobStore
from edge_node.storage.standby_fetcher import StandbyFetcher
from edge_node.telemetry.birth import birth_of, new_incarnation, renewed
from edge_node.telemetry.busy import WORTH_TELLING_S, busy_s
from edge_node.telemetry.load_report import load_effects
from edge_node.telemetry.memory_guard import MemoryGuard
from edge_node.telemetry.message_limit import MessageLimit
from edge_node.telemetry.profiler import Profiler
from edge_node.telemetry.rejections import Rejections
from edge_node.telemetry.reporter import Reporter
from edge_node.wire.activations import quiet
from edge_node.wire.first_connection import LONGEST_PAUSE_S, connect_patiently
from edge_node.wire.outbox import Outbox, client_id_of, will_of
from edge_node.wire.topics import data_route
from schemas import messages
from schemas.codec import decode_frames
from schemas.errors import ContractError
from schemas.messages import NodeBirth, Plan, ProbeNode
from schemas.topics import NODE_COMMAND, NODE_ECHO, PLAN

_log = logging.getLogger(__name__)
BusFactory = Callable[[str, Will], Bus]


class NodeService:
    """Runs a node until it is told to stop."""

    def __init__(
        self, config: NodeConfig, *, make_bus: BusFactory | None = None, tell: Callable[[str], None] = _log.info
    ) -> None:
        """``tell`` is given lines for whoever started the node."""
        self._config = config
        self._notices = Notices(config.name, tell)
        self._incarnation = new_incarnation()
        make_bus = make_bus or (lambda name, will: MqttBus(
            config.broker, client_id=name, will=will, find=config.find, longest_wait_s=LONGEST_PAUSE_S
        ))  # fmt: skip
        self._bus = make_bus(client_id_of(config.name, self._incarnation), will_of(config.name, self._incarnation))
        self._outbox = Outbox(self._bus, node=config.name, incarnation=self._incarnation)
        self._echo_topic = NODE_ECHO.format(node=config.name)
        self._limit = MessageLimit(self._bus, self._echo_topic)
        self._speed = config.emulated_speed
        access = BlobAccess.by(config.broker, config.whereabouts)
        self._store = BlobStore(config.blob_directory, limit_bytes=config.storage_limit_bytes, access=access)
        self._memory = MemoryGuard(config.memory_limit_bytes, self._store, self._call)
        self._runner = SegmentRunner(
            self._store, threads=config.threads, emulated_speed=config.emulated_speed, on_load_event=self._call,
            memory_bytes=self._memory.memory_bytes,
            providers=ProviderChoice(config.home, config.providers, threads=config.threads),
        )  # fmt: skip
        self._checks = CheckSchedule(config.check_interval_s)
        self._standby = StandbyFetcher(self._store)
        self._core = NodeCore(
            node=config.name, incarnation=self._incarnation, memory_bytes=self._memory.memory_bytes,
            watchdog_min_s=config.watchdog_min_s,
        )  # fmt: skip
        self._guest = Guest(config, self._memory.memory_bytes, say=self._notices.say, wake=self._call)
        self._rejected = Rejections()
        self._reporter = Reporter(
            self._bus, self._outbox, self._core, self._store, self._memory, self._guest.battery,
            interval_s=config.heartbeat_interval_s, rejected=self._rejected,
        )  # fmt: skip
        self._link = self._reporter.link
        self._kept: list[Event] = []
        self._profiler = Profiler(
            self._store, node=config.name, incarnation=self._incarnation, threads=config.threads,
            emulated_speed=config.emulated_speed, wake=self._call, memory_bytes=self._memory.memory_bytes,
        )  # fmt: skip
        self._birth: NodeBirth | None = None
        self._stopping = False
        self._refusal: str | None = None
        self._due_s = 0.0  # when there is more to do than what arrives
        self._own: list[Event] = []  # tokens for this node's own first stage
        self._is_slow = False  # a step takes so long that it is announced, for which the short way has no time
        self._called = False  # another thread has something for the loop

    def stop(self) -> None:
        """End ``run`` soon; may be called from a signal handler or another thread."""
        self._stopping = True
        self._bus.wake()

    def leave(self, reason: str) -> None:
        """End ``run`` once others have taken the stages over or time is up; may be called from where ``stop`` may."""
        self._guest.leave(reason)
        self._call()

    def _call(self) -> None:
        self._called = True
        self._bus.wake()

    @property
    def leaving(self) -> bool:
        """Was ``leave`` called?"""
        return bool(self._guest.leaving)

    @property
    def stays_until_s(self) -> float:
        """When the node ends at the latest once it was asked to leave (monotonic clock); 0.0: at once."""
        return 0.0 if self._stopping else self._guest.ends_by_s or 0.0

    def run(self, on_connected: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop``. ``on_connected`` is called once there is somebody to say good-bye to.

        Raises:
            BrokerUnreachable, BrokerRefused: no connection at the start, or its membership has ended.
            NodeRefused: the orchestrator does not take this node.
        """
        try:
            self._guest.start()
            late_s, say = self._config.connect_timeout_s, self._notices.say
            connect_patiently(self._bus, late_s, tell=say, is_over=lambda: self._stopping or not self._config.is_member)
            on_connected()
            self._bus.subscribe([NODE_COMMAND.filter(node=self._config.name), PLAN.filter()], qos=1)
            self._bus.subscribe([self._echo_topic])
            self._birth = birth_of(
                self._config, self._incarnation, self._memory, self._store, self._bus, self._limit,
                self._kept.append,
            )  # fmt: skip
            self._register()
            with quiet():
                self._loop()
            if self._refusal is not None:
                raise NodeRefused(self._refusal)
            self._outbox.say_goodbye()
        finally:
            self._reporter.close()
            self._memory.close()
            self._bus.close()
            self._guest.close()

    def _register(self) -> None:
        assert self._birth
        self._core.max_message_bytes = max_bytes = self._limit.max_message_bytes
        self._core.memory_bytes = self._memory.memory_bytes
        self._birth = renewed(self._birth, max_bytes, self._memory, self._store)
        self._outbox.register(self._birth, leaving=self._guest.leaving, resting=self._guest.resting)
        self._notices.registered()

    def _send(self, topic: str, data: bytes) -> None:
        try:
            self._bus.publish(topic, data)
        except PayloadTooLarge as error:
            self._outbox.fail_requests(data, error)
            return
        if topic in self._core.kept_topics:
            self._own.append(Delivery(topic, data, 0, False))

    def _heed_owner(self, now_s: float, polled_s: float) -> None:
        """Rest, or stop, once others have taken over or had long enough; ``polled_s``: when the bus was read last."""
        since_s = self._link.silent_since_s
        step = self._guest.step(self._core.has_stages, now_s, silent_s=polled_s - since_s if since_s else 0.0)
        if self._guest.leaving or step.announces or step.lets_go:
            self._reporter.stirred()
        if step.announces:
            self._core.resting = self._guest.resting
            self._outbox.say_online(leaving=self._guest.leaving, resting=self._guest.resting)
        if step.lets_go:
            self._do(self._core.give_up(f"it rests: {self._guest.resting}", "refused"))
        if step.ends:
            self._stopping = True

    def _loop(self) -> None:
        for event in self._kept:
            self._event(event)
        while not self._stopping:
            patience_s = self._due_s - time.monotonic()
            may_draft = not self._own and self._core.drafts.waiting
            events = self._bus.poll(0.0 if self._own or may_draft else max(0.0, patience_s))
            events = [*self._own, *events]
            self._own.clear()
            if may_draft and not events and patience_s > 0.0 and not self._called:
                self._do(self._core.drafts.turn(self._runner.run_draft, time.monotonic()))
                continue
            # After a step of an answer there is nothing else to do before something is due, or another thread calls.
            if events and patience_s > 0.0 and not (self._called or self._is_slow):
                events = self._short_way(events)
                if not events:
                    continue
            if self._called:
                self._called = False  # before what it is about is looked at: it may be set again meanwhile
                self._guest.look(time.monotonic())
            polled_s = time.monotonic()
            self._long_way(events)
            self._load_events()
            self._measure()
            now_s = time.monotonic()
            self._do(self._core.tick(now_s))
            self._do(self._core.next_transfer(now_s))
            self._standby.allow(not (self._runner.is_loading or self._core.is_prefilling or self._core.resting))
            if self._checks.is_due(now_s, idle=not self._core.has_requests):
                self._check_answers()
            self._heed_owner(now_s, polled_s)
            is_due = now_s >= self._reporter.due_s(now_s)
            if self._memory.has_news or is_due:
                self._do(self._memory.check(self._core, self._runner, now_s))
            if is_due:
                self._heartbeat()
            self._due_s = self._next_due_s(now_s)

    def _short_way(self, events: list[Event]) -> list[Event]:
        """Compute the last of what came, if that is an answer's next step and all there is to do; else it is left."""
        *before, last = events  # of an answer in a form: which tokens may come next
        for event in before:
            self._event(event)
        if type(last) is not Delivery or (before and self._core.has_work):
            return [last]
        now_s = time.monotonic()
        fast_path = self._core.fast_path(last.topic, last.payload, now_s)
        if fast_path is None:
            return [last]
        try:
            runner = self._runner.fast_runners.get(fast_path) or self._runner.fast_runner(fast_path)
            result, compute_s = runner.step(fast_path)
            now_s += compute_s
            self._send(fast_path.topic, fast_path.frame(result, now_s))
        except NodeError as error:
            _log.warning("a step of %s could not be computed: %s", fast_path.topic, error)
            return [last]  # the long way tries it once more
        fast_path.settle(compute_s, now_s)
        self._is_slow = compute_s >= WORTH_TELLING_S
        self._due_s = 0.0 if before else min(self._due_s, fast_path.due_s)
        self._link.disturbed = True
        return []

    def _long_way(self, events: Sequence[Event]) -> None:
        for event in events:
            self._event(event)
        work, effects = self._core.next_work()
        self._do(effects)
        if work:
            self._link.disturbed = True
            if silent_s := busy_s(self._core.expected_s(work)):
                self._say(silent_s)
            result = self._runner.run(work)
            if any(row.failure is not None and row.failure_code == "not_finite" for row in result.rows):
                self._check_answers()  # if it is this node's fault, the answers go on elsewhere
            self._do(self._core.computed(work, result, time.monotonic()))
            if silent_s:
                self._say()  # it may be missed sooner again
            self._memory.ran(self._core)

    def _check_answers(self) -> None:
        """Check that every segment still computes what it should; one that does not is no longer used."""
        for failed in self._runner.wrong_answers():
            self._do(load_effects(failed, self._core))
        self._checks.checked(time.monotonic())

    def _next_due_s(self, now_s: float) -> float:
        if self._core.has_work or self._core.has_transfer:
            return 0.0
        owner_s = self._guest.due_s(self._core.has_stages, self._link.silent_since_s)
        deadlines = [self._reporter.due_s(now_s), self._core.next_deadline_s(), owner_s]
        return min(deadline_s for deadline_s in deadlines if deadline_s is not None)

    def _event(self, event: Event) -> None:
        if self._limit.take(event):
            return
        match event:
            case Delivery():
                self._delivery(event)
            case Subscribed():
                self._do(self._core.subscribed(event.patterns))
            case Connected(reconnect=True):
                _log.info("connected again")
                if self._config.whereabouts:
                    self._config.whereabouts.ask_soon()
                self._limit.check()
                self._register()
            case Disconnected():
                _log.warning("connection lost: %s", event.reason)
            case Refused():
                _log.error("the broker did not take %d bytes on %s: %s", event.size_bytes, event.topic, event.reason)

    def _delivery(self, delivery: Delivery) -> None:
        self._link.heard(time.monotonic())
        if delivery.topic != self._echo_topic:
            self._reporter.stirred()
        try:
            if route := data_route(delivery.topic):
                pipeline, stage, sender = route
                now_s = time.monotonic()
                for frame in decode_frames(delivery.payload):
                    if effects := self._core.frame(pipeline, stage, sender, frame, now_s):
                        self._do(effects)
            elif NODE_COMMAND.match(delivery.topic):
                self._command(messages.decode(delivery.payload, *NODE_COMMAND.messages))
            elif PLAN.match(delivery.topic) and delivery.payload:
                plan: Plan = messages.decode(delivery.payload, *PLAN.messages)
                self._do(self._core.message(plan))
                self._profiler.plan_committed()
                self._notices.plan(plan)
            elif NODE_ECHO.match(delivery.topic):
                self._link.echo(delivery.payload, time.monotonic())
                self._profiler.echo(delivery.payload)
        except ContractError as error:
            self._rejected.add(delivery.topic, error)

    def _command(self, command: Any) -> None:
        if isinstance(command, ProbeNode):
            self._profiler.start(command, busy=self._core.has_requests, max_message_bytes=self._limit.max_message_bytes)
        else:
            self._do(self._core.message(command))

    def _measure(self) -> None:
        """Go on with measurements of the link, send what is measured."""
        if self._limit.go_on():
            self._register()
        for payload in self._profiler.link_messages():
            self._bus.publish(self._echo_topic, payload)
        for profile in self._profiler.finished():
            self._outbox.reply(profile)

    def _load_events(self) -> None:
        while not self._runner.events.empty():
            self._reporter.stirred()
            self._do(load_effects(self._runner.events.get(), self._core))

    def _do(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame():
                    self._send(effect.topic, effect.data)
                case Reply():
                    self._outbox.reply(effect.message)
                case LoadSegment():
                    self._profiler.wanted(effect.spec.segment)
                    self._runner.load(effect.spec, heir_of=effect.heir_of, same_segment=effect.same_segment)
                case UnloadSegment() | CopyPrefix() | WriteKvRows():
                    self._runner.apply(effect)
                case SendKvRows():
                    self._outbox.send_rows(effect.topic, self._runner.kv_rows(effect))
                case StandBy():
                    self._standby.keep(effect.message)
                case Subscribe():
                    self._bus.subscribe(effect.patterns, qos=1)  # KV rows travel with QoS 1
                case Unsubscribe():
                    self._bus.unsubscribe(effect.patterns)
                case Register():
                    self._register()
                case SendHeartbeat():
                    self._say()
                case Stop():
                    self._refusal = effect.reason
                    self.stop()

    def _heartbeat(self) -> None:
        self._checks.heartbeat(time.time(), time.monotonic())
        if self._config.emulated_speed_file:
            self._speed = read_speed(self._config.emulated_speed_file, self._speed)
            self._runner.emulate(self._speed)
        self._is_slow = False
        self._say()
        self._memory.ran(self._core)
        if not self._core.has_requests:
            self._store.give_back()
        if not self._profiler.measures_link:
            self._reporter.measure_link()

    def _say(self, silent_s: float = 0.0) -> None:
        """Say how the node is, to the fleet and to its owner; ``silent_s``: the next heartbeat may come so late."""
        runs = self._notices.runs if self._core.has_stages else ""
        beat = self._reporter.say(silent_s)
        self._guest.note(beat, self._bus, runs=runs, silent_since_s=self._link.silent_since_s)
