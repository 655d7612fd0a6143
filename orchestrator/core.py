"""The orchestrator's decisions: ``handle(event, now_s) -> effects`` (pure).

`fleet` knows who is there, a `pipeline` which plan is in force and who waits for what. This module passes events to
them and brings their results together.
"""

from __future__ import annotations

import math

from orchestrator.control_plane import ControlPlane
from orchestrator.effects import Effect, Halt, LimitMessages, Note, Publish, SaveLabel
from orchestrator.events import (
    BusDown,
    BusUp,
    Cancelled,
    ClientGone,
    Commanded,
    CommandUnreadable,
    Event,
    FleetDivided,
    GrammarCompiled,
    JobFailed,
    Malformed,
    ModelAdded,
    ModelOpened,
    ModelUnusable,
    NodeForgotten,
    NodeRevoked,
    NodeSaid,
    PlanChecked,
    PlanEvaluated,
    PlanHeard,
    PlanPreviewed,
    PlanSolved,
    PromptEncoded,
    PromptUnusable,
    Renewed,
    Restored,
    SegmentsBuilt,
    StandbyPlanned,
    Stopping,
    Submitted,
    TokensHeard,
)
from orchestrator.operator_api.handler import OperatorHandler
from orchestrator.text.advice import ADD_A_MODEL
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import Heartbeat, NodeBirth, NodeStatus
from schemas.topics import NODE_STATUS

_MOST_PASSES = 10
"""What becomes of one pipeline may be what another has waited for; after so many rounds the next event goes on."""


class Core:
    """An orchestrator: a service that clients ask, and the pipelines that answer."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self._operator = OperatorHandler()
        self._bus_is_up = False
        self._silence_due_s = math.inf
        """No node can have been silent for too long before this."""
        self.heard_until_s = math.inf
        """What had arrived by then has been handled: who is silent later may have said something since."""
        self._max_message_bytes = MAX_PAYLOAD_BYTES

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take in one event; ``now_s`` is a monotonic clock's."""
        effects = self._dispatch(event, now_s)
        is_birth = isinstance(event, NodeSaid) and isinstance(event.message, NodeBirth) and not event.retained
        if isinstance(event, BusUp) or is_birth:
            effects = self._limit_messages() + effects
        if not isinstance(event, Stopping):
            effects += self._advance(now_s)
        self.plane.stories.record(event, effects, now_s)
        return effects

    def next_deadline_s(self) -> float:
        """When a ``Tick`` is due; infinity when only events can change anything."""
        readers_s = self.plane.readers.due_s if self._bus_is_up else math.inf
        return min(self._silence_due_s, readers_s, self.plane.pipelines.next_deadline_s())

    def _dispatch(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case NodeSaid():
                return self._node_said(event, now_s)
            case NodeRevoked():
                return self._node_revoked(event.node, now_s)
            case NodeForgotten():
                self.plane.fleet.forget(event.node)
            case TokensHeard():
                return self.plane.pipelines.tokens(event, now_s)
            case Submitted():
                if refusal := self.plane.readers.refusal(event.request, now_s):
                    return refusal
                self.plane.readers.asked(event.request, now_s)
                return self.plane.pipelines.submit(event.request, now_s)
            case PromptEncoded() | GrammarCompiled() | PromptUnusable():
                return self.plane.pipelines.prompt_made(event)
            case Cancelled():
                return self.plane.pipelines.cancel(event.client, event.cancel, now_s)
            case Renewed():
                return self.plane.readers.renewed(event.client, event.renew, now_s)
            case ClientGone():
                self.plane.readers.gone(event, now_s)
            case Malformed():
                return self.plane.readers.refuse(event, now_s)
            case Commanded():
                return self._operator.handle(event.asker, event.command, self.plane, now_s)
            case CommandUnreadable():
                return self._operator.unreadable(event.asker, event.error)
            case PlanPreviewed():
                return self._operator.previewed(event.job, event.explanation, self.plane.pipelines, now_s)
            case PlanChecked():
                return self._operator.checked(event.job, event.outcome, self.plane.pipelines, now_s)
            case JobFailed() if event.job < 0:
                return self._operator.question_failed(event.job, event.reason)
            case PlanSolved() | PlanEvaluated() | SegmentsBuilt() | StandbyPlanned() | FleetDivided() | JobFailed():
                return self.plane.pipelines.answered(event, now_s)
            case ModelAdded():
                if self.plane.opening is None and self.plane.pipeline.model is None:
                    return self.plane.open_model(event.name)
            case ModelOpened() | ModelUnusable():
                return self._model(event, now_s)
            case PlanHeard():
                return self._plan_heard(event)
            case BusUp():
                return self._bus_up(event, now_s)
            case BusDown():
                self._bus_is_up, self._silence_due_s = False, math.inf
                self.plane.pipelines.cut_off()
                return [Note("the broker is out of reach", warning=True, kind="broker")]
            case Restored():
                self.plane.pipelines.restore(event.requests, event.plans, now_s)
            case Stopping():
                return self.plane.pipelines.stop(now_s)
        return []

    def _advance(self, now_s: float) -> list[Effect]:
        """Do what the event has made possible, and what is due."""
        effects: list[Effect] = []
        pipelines, heard_until_s = self.plane.pipelines, min(now_s, self.heard_until_s)
        if heard_until_s >= self._silence_due_s:
            effects += self.plane.miss_silent_nodes(heard_until_s, now_s)
            self._silence_due_s = self.plane.fleet.next_expiry_s()
        if self._bus_is_up and heard_until_s >= self.plane.readers.due_s:
            effects += self.plane.readers.expire(heard_until_s)
        for _ in range(_MOST_PASSES):
            if now_s < pipelines.next_deadline_s():
                break
            effects += pipelines.advance(now_s)
            effects += self._operator.plan_outcomes(pipelines)
            effects += pipelines.serve(now_s, opening=self.plane.opening is not None)
            if self.plane.needs_others(now_s) and self._bus_is_up:
                self._silence_due_s = self.plane.fleet.next_expiry_s()
        return effects

    # --- the bus ----------------------------------------------------------------------------------------------

    def _limit_messages(self) -> list[Effect]:
        """Limit the length of messages, before any is sent that would not reach a node."""
        before, self._max_message_bytes = self._max_message_bytes, self.plane.fleet.max_message_bytes()
        return [LimitMessages(self._max_message_bytes)] if self._max_message_bytes != before else []

    def _bus_up(self, event: BusUp, now_s: float) -> list[Effect]:
        self._bus_is_up = True
        self.plane.fleet.limit_messages(event.max_message_bytes)
        self.plane.fleet.hold_clock(now_s)
        self._silence_due_s = self.plane.fleet.next_expiry_s()
        self.plane.readers.hold_clock(now_s)
        if event.reconnect:
            text = "this orchestrator stood still, and goes on" if event.stood_still else "the broker is back"
            return [Note(text, kind="broker"), *self.plane.pipelines.republish(now_s)]
        self.plane.pipelines.start(now_s)
        if self.plane.opening:
            return self.plane.open_model(self.plane.opening)
        self.plane.pipelines.no_model(f"no model is active; on the host: {ADD_A_MODEL}")
        return []

    def _plan_heard(self, event: PlanHeard) -> list[Effect]:
        effects, superseded = self.plane.pipelines.heard_plan(event.plan, retained=event.retained)
        if superseded:
            name = event.plan.pipeline
            reason = f"another orchestrator has taken over pipeline {name} on this broker: run only one of them"
            return [*effects, Halt(reason)]
        return effects

    # --- nodes ------------------------------------------------------------------------------------------------

    def _node_said(self, event: NodeSaid, now_s: float) -> list[Effect]:
        if getattr(event.message, "node", event.node) != event.node:
            return []  # speaks for somebody else
        changes = self.plane.fleet.apply(event.node, event.message, now_s, retained=event.retained)
        if self._bus_is_up:
            self._silence_due_s = min(self._silence_due_s, self.plane.fleet.expires_s(event.node))
        effects = self.plane.fleet_changes(changes, now_s)
        if isinstance(event.message, Heartbeat) and not self.plane.fleet.is_believed(event.node):
            return effects
        return effects + self.plane.pipelines.node_said(event.node, event.message, now_s)

    def _node_revoked(self, node: str, now_s: float) -> list[Effect]:
        """Say for a node that it has left: the broker does not pass on the will of who may say nothing any more."""
        fleet = self.plane.fleet
        effects: list[Effect] = [SaveLabel(node, "")] if node in fleet.labels else []
        fleet.set_label(node, "")  # whoever joins by this name next is another device
        known = fleet.nodes.get(node)
        if known is None:
            return effects
        reason = "its membership has ended"
        gone = NodeStatus(node=node, incarnation=known.birth.incarnation, online=False, reason=reason, leaving=True)
        said = Publish(NODE_STATUS.format(node=node), gone, NODE_STATUS.qos, NODE_STATUS.retain)
        return [*effects, said, *self._node_said(NodeSaid(node, gone), now_s)]

    # --- the model --------------------------------------------------------------------------------------------

    def _model(self, event: ModelOpened | ModelUnusable, now_s: float) -> list[Effect]:
        if event.name != self.plane.opening:
            return []
        self.plane.opening = None
        if isinstance(event, ModelUnusable):
            self.plane.pipelines.no_model(event.reason)
            note = Note(f"model {event.name} can't be served: {event.reason}", warning=True, kind="model")
            return [note, *self._operator.model_opened(event.reason, self.plane.pipeline)]
        self.plane.pipelines.use_model(event.model, now_s)
        return [
            Note(f"model {event.name} is open", kind="model"),
            *self._operator.model_opened("", self.plane.pipeline),
        ]
