"""The orchestrator's service: bus, database, HTTP server and worker around the core.

One thread polls the bus, hands events to the core and does what its effects say. Nothing is decided here.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.bus import Bus, Connected, Delivery, Disconnected, Properties, Refused, Subscribed
from broker.errors import PayloadTooLarge, QueueFull
from orchestrator.control_plane import ControlPlane
from orchestrator.core import Core
from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import (
    Asker,
    Effect,
    ForgetRequest,
    Halt,
    LimitMessages,
    Listen,
    Note,
    Publish,
    SaveConstraints,
    SaveDrained,
    SaveEpoch,
    SaveLabel,
    SaveModelChoice,
    SaveOpened,
    SavePlan,
    SaveProfile,
    SaveRequest,
    SaveRunning,
    SaveTokens,
    TellEvents,
    TellHistory,
)
from orchestrator.errors import Superseded
from orchestrator.events import BusDown, BusUp, Event, ModelAdded, NodeForgotten, NodeRevoked, Restored, Stopping, Tick
from orchestrator.model.errors import ModelError
from orchestrator.model.store import ModelStore
from orchestrator.operator_api.event_log import EventLog
from orchestrator.operator_api.replies import reply
from orchestrator.pipelines.partition import pipeline_names
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.inbox import OTHERS, Inbox
from orchestrator.service.model_watch import ModelWatch
from orchestrator.service.request_journal import RequestJournal
from orchestrator.service.responses import instead_of
from orchestrator.service.storage_watch import StorageWatch
from orchestrator.service.sweeper import Sweeper
from orchestrator.service.tellers import Tellers
from orchestrator.service.tenure import Claim, Tenure, superseded
from orchestrator.service.wishes import wishes_of
from orchestrator.service.worker import Job, Solver, Worker, default_solver
from schemas.errors import ContractError, MemberError, MessageError
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import (
    EventsReply,
    HistoryReply,
    OperatorReply,
    OrchestratorStatus,
    decode,
    encode,
)
from schemas.names import is_name
from schemas.topics import (
    EVENT,
    LONGEST_TOPIC_BYTES,
    NODE_BIRTH,
    NODE_HEARTBEAT,
    NODE_STATUS,
    OPERATOR_WISHES,
    ORCHESTRATOR_STATUS,
    PLAN,
    TOKEN,
)

logger = logging.getLogger(__name__)

_MAX_POLL_S = 0.25
"""A stop event set by another thread is seen within this time."""
_STOP_FLUSH_S = 1.0
_STOOD_STILL_S = 2.0
"""Between two turns: a process that was suspended, or a machine that slept."""


class Service:
    """The core with its adapters, on a connected bus."""

    def __init__(
        self,
        config: ServiceConfig,
        bus: Bus,
        store: ModelStore,
        state: Database,
        *,
        blob_urls: tuple[str, ...],
        solve: Solver = default_solver,
        orchestrator: str = "",
        last: OrchestratorStatus | None = None,
    ) -> None:
        """``orchestrator``: what tells this start from others, as in the will of the bus; ``last``: see
        `ask_for_incumbent`."""
        self._pipeline = config.pipeline
        self._bus = bus
        self._store = store
        self._state = state
        self._requests = RequestJournal(state, config.pipeline)
        self._worker = Worker(store, wake=bus.wake, solve=solve)
        self._subscribed = False
        self._journal = EventLog(config.pipeline)
        self.inbox = Inbox()
        self._sweeper = Sweeper(bus, lambda name: self.inbox.is_member(name))
        self.inbox.clear = self._sweeper.clear
        self.tellers = Tellers()
        active = config.model or store.active
        self._model_watch = ModelWatch(store, active)
        settings = ServingSettings(
            pipeline=config.pipeline,
            context_tokens=config.context_tokens,
            slots=config.slots,
            wire_dtype=config.wire_dtype,
            kv_dtype=config.kv_dtype,
            chunk_tokens=config.chunk_tokens,
            draft_tokens=config.draft_tokens,
            draft=config.draft,
            memory_margin=config.memory_margin,
        )
        generation = max(state.next_generation(config.pipeline), last.generation + 1 if last else 0)
        name = orchestrator or secrets.token_hex(4)
        self._tenure = Tenure.begin(config.pipeline, name, generation=generation, host=socket.gethostname())
        state.begin_tenure(config.pipeline, name, last.orchestrator if last else "")
        self._status_topic = ORCHESTRATOR_STATUS.format(pipeline=config.pipeline)
        self._storage = StorageWatch(f"{state.path} is written again")
        self._asks = False
        """After a reconnection: whether another one serves meanwhile is not known yet."""
        self._turned_s = math.inf
        """When the last turn ended."""
        self._held: list[Delivery] | None = None
        """Not looked at until that is known: this process stood still."""
        self.core = Core(
            ControlPlane(
                settings,
                generation=generation,
                model=active,
                min_nodes=config.min_nodes,
                max_queued=config.max_queued,
                blob_urls=blob_urls,
                timing=config.timing,
                limits=config.health,
                pipelines=config.pipelines,
                balance=config.balance,
            )
        )
        self.core.heard_until_s = time.monotonic()
        self.core.plane.fleet.drained.update(state.drained())
        self.core.plane.fleet.labels.update(state.labels())
        self.core.plane.pipelines.profiles.load(state.profiles(time.monotonic()))
        try:
            self.core.plane.pipelines.use_constraints(state.constraints(config.pipeline))
        except MemberError as error:
            logger.error("the constraints of earlier plans are not respected: %s", error)

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set.

        Raises:
            Superseded: another orchestrator took over.
        """
        self.begin()
        try:
            while not stop.is_set():
                if self.turn() and not self._subscribed:
                    self._subscribed = True
                    on_ready()
            self._do(self.core.handle(Stopping(), time.monotonic()))
            self._requests.write()
            self.tellers.end()
            self._say_status(self._tenure.gone)
            self._bus.flush(_STOP_FLUSH_S)
        finally:
            self._worker.close()

    def begin(self) -> None:
        """Ask for all messages; each ``turn`` serves from then on."""
        # Plans of all pipelines that there can be: an earlier start may have left some that this one does not have.
        stored = [PLAN.format(pipeline=name) for name in pipeline_names(self._pipeline) if is_name(name)]
        stored += [self._status_topic, NODE_BIRTH.filter(), NODE_STATUS.filter()]
        frames = [TOKEN.filter(pipeline=self._pipeline), NODE_HEARTBEAT.filter()]
        self._bus.subscribe(stored, qos=1)
        self._bus.subscribe(frames, qos=0, stored=False)
        self._bus.subscribe(OTHERS, qos=1, stored=False)
        self._waiting_for = {*stored, *frames, *OTHERS}
        self.tellers.begin()

    def revoked(self, node: str) -> None:
        """Note that a node's membership has ended. For any thread."""
        self._worker.results.put(NodeRevoked(node))
        self._sweeper.revoked(node)
        self._bus.wake()

    @property
    def due_s(self) -> float:
        """When ``turn`` has something to do even if nothing arrives."""
        core_s = self.core.next_deadline_s() if self._held is None else math.inf
        return min(core_s, self._requests.due_s)

    def turn(self) -> bool:
        """One poll and all that follows from it; true once the subscriptions are in force."""
        wait_s = min(self.due_s - time.monotonic(), _MAX_POLL_S)
        bus_events = self._bus.poll(max(wait_s, 0.0))
        heard_until_s = time.monotonic()
        if heard_until_s > self._turned_s + _STOOD_STILL_S and not self._waiting_for:
            self._stood_still()
        for bus_event in bus_events:
            match bus_event:
                case Delivery(topic) if topic == self._status_topic:
                    self._on_status(bus_event)
                case Delivery() if self.tellers.take(bus_event):
                    pass
                case Delivery() if self._held is not None:
                    self._held.append(bus_event)
                case Delivery():
                    for event in self.inbox.events(bus_event):
                        self._handle(event)
                case Subscribed(patterns):
                    self._on_subscribed(patterns)
                case Disconnected():
                    self._held = None
                    self._handle(BusDown())
                case Connected(reconnect=True):
                    self._asks = True
                    self._say_status(replace(self._tenure.own, state="asks"))
                case Refused(topic, size_bytes, reason):
                    logger.error("the broker did not take %d bytes on %s: %s", size_bytes, topic, reason)
        self.core.heard_until_s = heard_until_s
        while self._held is None and not self._worker.results.empty():
            self._handle(self._worker.results.get())
        if self._held is None and self.core.next_deadline_s() <= time.monotonic():
            self._handle(Tick())
        generation = self.core.plane.pipelines.generation
        if generation != self._tenure.own.generation:  # it went above a plan that was left
            self._tenure = self._tenure.raised(generation)
            self._say_status(self._tenure.own)
        if self._requests.due_s <= time.monotonic():
            self._requests.write()
        for name in self._sweeper.look(time.monotonic()):
            self._handle(NodeForgotten(name))
        if not (self._asks or self._waiting_for):
            self.tellers.look(time.monotonic())
            if added := self._model_watch.look(time.monotonic()):
                self._handle(ModelAdded(added))
        self._do(self._storage.look(self._state.failure, time.monotonic()))
        self._turned_s = time.monotonic()
        return not self._waiting_for

    def _stood_still(self) -> None:
        """Decide nothing until it is known who serves: another one may have taken over while this process stood."""
        self._asks, self._held = True, self._held or []
        self._say_status(replace(self._tenure.own, state="asks"))

    def _on_subscribed(self, patterns: tuple[str, ...]) -> None:
        if not self._waiting_for:
            return
        self._waiting_for.difference_update(patterns)
        if not self._waiting_for:
            self._handle(Restored(self._state.requests(self._pipeline), self._state.running(self._pipeline)))
            self._handle(self._bus_up(reconnect=False))
            self._say_status(self._tenure.own)
            self._say_wishes()

    def _on_status(self, delivery: Delivery) -> None:
        try:
            said = decode(delivery.payload, OrchestratorStatus)
        except ContractError as error:
            self.inbox.reject(delivery, error)
            return
        match self._tenure.heard(said):
            case Claim.YIELD:
                raise Superseded(superseded(said))
            case Claim.ASSERT:
                self._say_status(self._tenure.own)
            case Claim.NOTHING if said.state == "asks" and self._asks:  # whoever else serves was heard before this
                self._asks = False
                self.tellers.again()
                self._handle(self._bus_up(reconnect=True, stood_still=self._held is not None))
                self._say_status(self._tenure.own)
                held, self._held = self._held or [], None
                for earlier in held:
                    for event in self.inbox.events(earlier):
                        self._handle(event)

    def _say_status(self, status: OrchestratorStatus) -> None:
        retain = ORCHESTRATOR_STATUS.retain and status.state != "asks"
        self._publish(self._status_topic, status, ORCHESTRATOR_STATUS.qos, retain)

    def _say_wishes(self) -> None:
        """Tell one that stands by what operators want."""
        wishes = wishes_of(self._state, self._store, self._pipeline)
        topic = OPERATOR_WISHES.format(pipeline=self._pipeline)
        self._publish(topic, wishes, OPERATOR_WISHES.qos, OPERATOR_WISHES.retain)

    def _bus_up(self, *, reconnect: bool, stood_still: bool = False) -> BusUp:
        announced_bytes = self._bus.announced_payload_bytes - LONGEST_TOPIC_BYTES
        return BusUp(reconnect, min(announced_bytes, MAX_PAYLOAD_BYTES), stood_still)

    def _handle(self, event: Event) -> None:
        self._do(self.core.handle(event, time.monotonic()))

    # --- out --------------------------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Publish(topic, message, qos, retain, correlation):
                    self._publish(topic, message, qos, retain, correlation)
                case _ if isinstance(effect, Job):
                    self._worker.submit(effect)
                case LimitMessages(max_bytes):
                    self._bus.limit_payload(max_bytes)
                case Listen(pipeline):
                    self._bus.subscribe([TOKEN.filter(pipeline=pipeline)], qos=0, stored=False)
                case Note(text, warning):
                    logger.log(logging.WARNING if warning else logging.INFO, "%s", text)
                    self._tell(effect)
                case Halt(reason):
                    raise Superseded(reason)
                case _:
                    self._save(effect)

    def _publish(self, topic: str, message: Any, qos: int, retain: bool, correlation: str = "") -> None:
        properties = Properties(correlation=bytes.fromhex(correlation))
        try:
            self._bus.publish(topic, encode(message), qos=qos, retain=retain, properties=properties)
        except (MessageError, PayloadTooLarge, QueueFull) as error:
            logger.error("a message on %s was not sent: %s", topic, error)
            if refusal := instead_of(message, error):
                self._publish(topic, refusal, qos, retain, correlation)

    def _answer(self, asker: Asker, answer: OperatorReply) -> None:
        self._do([reply(asker, answer)])

    def _tell(self, note: Note) -> None:
        """Tell operators of a note, if it is an event."""
        event = self._journal.add(note, time.time())
        if event:
            self._worker.keep(self.core.plane.models_in_use())  # what is told of is what may change them
            self._publish(EVENT.format(pipeline=event.pipeline), event, EVENT.qos, EVENT.retain)

    def _save(self, effect: Effect) -> None:
        match effect:
            case SaveEpoch(epoch):
                self._state.save_epoch(self._pipeline, epoch)
            case SavePlan(epoch, plan):
                self._state.save_plan(epoch, plan)
            case SaveRunning(running):
                self._state.save_running(running)
            case SaveConstraints(constraints):
                self._state.save_constraints(self._pipeline, constraints)
                self._say_wishes()
            case TellHistory(asker, limit):
                self._answer(asker, HistoryReply(plans=self._state.plans(self._pipeline, limit=limit)))
            case TellEvents(asker, limit):
                self._answer(asker, EventsReply(events=self._journal.view(limit)))
            case SaveDrained(node, drained):
                self._state.save_drained(node, drained)
                self._say_wishes()
            case SaveLabel(node, label):
                self._state.save_label(node, label)
                self._say_wishes()
            case SaveProfile(profile):
                age_s = time.monotonic() - profile.measured_s
                self._state.save_profile(profile, time.time() - age_s)
            case SaveModelChoice(model):
                try:
                    self._store.use(model)
                    self._say_wishes()
                except (ModelError, OSError) as error:
                    logger.error("model %s will not be active after a restart: %s", model, error)
            case SaveRequest() | SaveOpened() | SaveTokens() | ForgetRequest():
                self._requests.save(effect, time.monotonic())
