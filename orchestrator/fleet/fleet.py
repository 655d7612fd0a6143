"""The state of the fleet: which nodes are there and how they are doing (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.fleet.arrivals import Arrivals
from orchestrator.fleet.changes import (
    Crowded,
    Drained,
    Flagged,
    FleetChange,
    Grown,
    Joined,
    Left,
    Restored,
    Roused,
    Tell,
    Trusted,
)
from orchestrator.fleet.compatibility import why_apart
from orchestrator.fleet.health import Condition, HealthLimits, NodeHealth
from orchestrator.fleet.silence import RECHECK_S, LifeSigns, SilenceLimits
from orchestrator.text.figures import megabytes
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import Heartbeat, HeldStage, NodeBirth, NodeStatus, NodeView, RefuseNode, RegisterAgain


@dataclass
class Node:
    """One node as last heard of. Usable when it is online, was heard live and was not refused."""

    birth: NodeBirth
    signs: LifeSigns
    health: NodeHealth
    online: bool = False
    live: bool = False
    """Heard by anything else than a retained message: a retained birth may be a ghost's."""
    offline_since_s: float = 0.0
    offline_reason: str = ""
    refused: str = ""
    leaving: str = ""
    """Why it wants to end."""
    resting: str = ""
    """Why it wants no layers for now."""
    heartbeat: Heartbeat | None = None
    elders: tuple[int, ...] = ()
    """Earlier starts of that name, the newest last."""

    @property
    def usable(self) -> bool:
        return self.online and self.live and not self.refused

    @property
    def heard_s(self) -> float:
        return self.signs.heard_s


_KEPT_ELDERS = 16


class FleetState:
    """All nodes of the fleet, by name.

    Incarnations have no order, for a device's clock may go back: the start that registered last is the node. Of two
    that are here under one name the one that registered first is its elder, and is sent away; a start that is gone
    keeps nobody out. What a start other than the present one says never changes whether the node is there.
    """

    def __init__(self, *, silence: SilenceLimits | None = None, limits: HealthLimits | None = None) -> None:
        self.nodes: dict[str, Node] = {}
        self.drained: set[str] = set()
        """Nodes that an operator wants to be empty, whether they are here or not."""
        self.labels: dict[str, str] = {}
        """What people call nodes, by name, whether they are here or not."""
        self._max_message_bytes = MAX_PAYLOAD_BYTES
        self._silence = silence or SilenceLimits()
        self._needed: frozenset[str] = frozenset()
        self._limits = limits or HealthLimits()
        self.arrivals = Arrivals()

    def apply(self, node: str, message: Any, now_s: float, *, retained: bool = False) -> list[FleetChange]:
        """Take in what arrived on a node's birth, status or heartbeat topic; other messages change nothing."""
        if not isinstance(message, NodeBirth | NodeStatus | Heartbeat) or message.node != node:
            return []
        known = self.nodes.get(node)
        was_usable = known is not None and known.usable
        was_incarnation = known.birth.incarnation if known else None
        was_drained, was_odd = self.why_drained(node), known is not None and bool(known.health.oddities)
        rested = known is not None and bool(known.resting)
        if isinstance(message, NodeBirth):
            changes = self._birth(message, known, now_s, live=not retained)
        elif isinstance(message, NodeStatus):
            changes = self._status(message, known, now_s, live=not retained)
        else:
            changes = self._heartbeat(message, known, now_s)
        now_known = self.nodes.get(node)
        if now_known is None:
            return changes
        again = was_usable and now_known.birth.incarnation != was_incarnation
        if was_usable and (again or not now_known.usable):
            reason = "it started again" if again else now_known.offline_reason
            changes.append(Left(node, reason, leaving=bool(now_known.leaving)))
        if now_known.usable and (again or not was_usable):
            changes.append(Joined(now_known.birth))
        elif now_known.usable:
            changes += self._drain_change(node, was_drained, rested)
        odd = "; ".join(now_known.health.oddities)
        if bool(odd) is not was_odd:
            changes.append(Flagged(node, odd) if odd else Trusted(node))
        return changes

    def names(self) -> set[str]:
        """Names of all nodes that were heard of, drained, or called something else."""
        return {*self.nodes, *self.drained, *self.labels}

    def limit_messages(self, max_bytes: int) -> None:
        """Note that the broker takes no longer payloads of the orchestrator, so that no node can be told more."""
        self._max_message_bytes = max_bytes
        for node in self.nodes.values():
            node.birth = self._within_limit(node.birth)

    def max_message_bytes(self) -> int:
        """The longest payload, in bytes, that can be sent to all nodes that are here, and by all of them."""
        return min((birth.max_message_bytes for birth in self.usable()), default=self._max_message_bytes)

    def _within_limit(self, birth: NodeBirth) -> NodeBirth:
        return replace(birth, max_message_bytes=min(birth.max_message_bytes, self._max_message_bytes))

    def set_drained(self, node: str, drained: bool) -> list[FleetChange]:
        """An operator wants a node to be empty, or no longer."""
        was_drained, known = self.why_drained(node), self.nodes.get(node)
        if drained:
            self.drained.add(node)
        else:
            self.drained.discard(node)
        return self._drain_change(node, was_drained, known is not None and bool(known.resting))

    def called(self, label: str, *, but: str) -> str:
        """The node that people see by this, whether it is its name or its label; empty: none, ``but`` aside."""
        names = {label} & self.names() | {node for node, had in self.labels.items() if had == label}
        return min(names - {but}, default="")

    def set_label(self, node: str, label: str) -> None:
        """Have people see a node by a label; empty: by its name."""
        if label:
            self.labels[node] = label
        else:
            self.labels.pop(node, None)

    def why_drained(self, node: str) -> str:
        """Why no new plan may use this node; empty when one may."""
        known = self.nodes.get(node)
        reasons = [f"it is leaving: {known.leaving}"] if known and known.leaving else []
        reasons += [f"it rests: {known.resting}"] if known and known.resting else []
        reasons += ["an operator drains it"] if node in self.drained else []
        reasons += [known.health.unfit] if known and known.health.unfit else []
        return "; ".join(reasons)

    def is_weak(self, node: str) -> bool:
        """Is a node's own state, such as its battery, the only reason why it should be given no layers?"""
        known = self.nodes.get(node)
        if known is None or known.leaving or known.resting or node in self.drained:
            return False
        return bool(known.health.unfit)

    def _drain_change(self, node: str, before: str, rested: bool) -> list[FleetChange]:
        now, rests = self.why_drained(node), node in self.nodes and bool(self.nodes[node].resting)
        if now and before and rests is not rested:
            return [Drained(node, now) if rests else Roused(node, now)]
        if bool(now) is bool(before):
            return []
        return [Drained(node, now) if now else Restored(node)]

    def _birth(self, birth: NodeBirth, known: Node | None, now_s: float, *, live: bool) -> list[FleetChange]:
        birth, more_bytes = self._within_limit(birth), 0
        if known and birth.incarnation == known.birth.incarnation:
            more_bytes = birth.memory_bytes - known.birth.memory_bytes
            known.birth, known.refused, known.health.memory_bytes = birth, why_apart(birth), birth.memory_bytes
        elif known and known.online and (birth.incarnation in known.elders or (known.live and not live)):
            return [self._refuse_elder(birth.node, birth.incarnation)] if live else []
        elif reason := self.arrivals.refusal(birth.node, self.nodes, now_s, live=live):
            return [Crowded(birth.node, reason)] if self.arrivals.is_news(now_s) else []
        else:
            if known is None and (gone := self.arrivals.gives_way(self.nodes)):
                del self.nodes[gone]
            health = NodeHealth(self._limits, birth.memory_bytes)
            earlier = (*known.elders, known.birth.incarnation)[-_KEPT_ELDERS:] if known else ()
            elders = tuple(incarnation for incarnation in earlier if incarnation != birth.incarnation)
            signs = LifeSigns(now_s, needed_since_s=now_s if birth.node in self._needed else None)
            known = Node(birth, signs, health, online=live, refused=why_apart(birth), elders=elders)
            self.nodes[birth.node] = known
        known.signs.heard_s = now_s
        if live:
            known.live = known.online = True
        elif not known.live:  # a ghost's, unless it answers; its next heartbeat may be seconds away
            return [*self._refusal(known), _register(birth.node, "is it here?")]
        grown = [Grown(birth.node, megabytes(more_bytes))] if live and more_bytes > 0 else []
        return [*self._refusal(known), *grown]

    def _status(self, status: NodeStatus, known: Node | None, now_s: float, *, live: bool) -> list[FleetChange]:
        if known is None or status.incarnation != known.birth.incarnation:
            # The late will of an earlier start says nothing of the present one.
            is_here = status.online and live
            return self._stranger(status.node, status.incarnation, known, now_s) if is_here else []
        known.leaving = (status.reason or "it was asked to stop") if status.leaving else ""
        known.resting = (status.reason or "it wants no layers for now") if status.resting and status.online else ""
        if status.online:
            known.online = True
            known.live = known.live or live
            known.signs.heard_s = now_s
        else:
            self._take_offline(known, status.reason or "it went away", now_s)
        return []

    def _heartbeat(self, beat: Heartbeat, known: Node | None, now_s: float) -> list[FleetChange]:
        if known is None or beat.incarnation != known.birth.incarnation:
            return self._stranger(beat.node, beat.incarnation, known, now_s)
        known.heartbeat = beat
        known.health.heard(beat, now_s)
        known.signs.heartbeat(beat.busy_s, beat.next_s, now_s, was_here=known.online)
        known.live = known.online = True
        return self._refusal(known)

    @staticmethod
    def _refusal(known: Node) -> list[FleetChange]:
        birth = known.birth
        return (
            [Tell(birth.node, RefuseNode(incarnation=birth.incarnation, reason=known.refused))] if known.refused else []
        )

    def _stranger(self, node: str, incarnation: int, known: Node | None, now_s: float) -> list[FleetChange]:
        """The answer to another start of a node than the present one; none where it would not be let in."""
        if known and known.online and incarnation in known.elders:
            return [self._refuse_elder(node, incarnation)]
        return [] if known is None and self.arrivals.is_crowded(now_s) else [_register(node)]

    @staticmethod
    def _refuse_elder(node: str, incarnation: int) -> Tell:
        reason = f"another node named {node} registered later: give one of them another name with --name"
        return Tell(node, RefuseNode(incarnation=incarnation, reason=reason))

    @staticmethod
    def _take_offline(node: Node, reason: str, now_s: float) -> None:
        if node.online:
            node.online, node.offline_since_s, node.offline_reason = False, now_s, reason

    def forget(self, node: str) -> None:
        """Know nothing of a node any more, unless it is here again or a plan has it."""
        known = self.nodes.get(node)
        if known and not known.usable and node not in self.arrivals.in_use():
            del self.nodes[node]

    def need(self, nodes: frozenset[str], now_s: float) -> bool:
        """Note which nodes open requests need; true when these are others than before."""
        others, self._needed = nodes ^ self._needed, nodes
        for name in others & self.nodes.keys():
            self.nodes[name].signs.needed_since_s = now_s if name in nodes else None
        return bool(others)

    def worked(self, nodes: Iterable[str], at_s: float) -> None:
        """Note that something came in which all these nodes had a part."""
        for name in nodes:
            self.nodes[name].signs.worked_s = max(self.nodes[name].signs.worked_s, at_s)

    def expire(self, now_s: float) -> list[FleetChange]:
        """Take nodes offline that were silent for too long."""
        changes: list[FleetChange] = []
        for name, node in self.nodes.items():
            if not node.online or now_s < node.signs.suspect_s(self._silence):
                continue
            if now_s < node.signs.lost_s(self._silence) and not self._is_alone_silent(node):
                changes += self._ask_others(node)
                node.signs.recheck_s = now_s + RECHECK_S
                continue
            reason = f"no heartbeat for {now_s - node.heard_s:.3g} s"
            changes += [Left(name, reason)] if node.usable else []
            self._take_offline(node, reason, node.heard_s)
        return changes

    def _is_alone_silent(self, silent: Node) -> bool:
        """Was another node heard meanwhile? If not, it may be the broker that is silent."""
        others = (node for node in self.nodes.values() if node is not silent and node.online)
        return any(other.signs.is_heard_after(silent.signs, self._silence) for other in others)

    def _ask_others(self, silent: Node) -> list[Tell]:
        """Have nodes that are heard seldom speak up, once for each silence: it may be the broker that is silent."""
        if silent.signs.recheck_s > silent.heard_s:
            return []
        others = (node for node in self.nodes.values() if node is not silent and node.usable and node.signs.is_quiet)
        return [_register(other.birth.node, "another node is silent") for other in others]

    def hold_clock(self, now_s: float) -> None:
        """Count silence from now on: we were cut off, so silence until now says nothing about the nodes."""
        for node in self.nodes.values():
            node.signs.heard_s = now_s

    def expires_s(self, node: str) -> float:
        """When ``expire`` finds this node if it stays silent; infinity for one that is not online."""
        known = self.nodes.get(node)
        return known.signs.suspect_s(self._silence) if known and known.online else math.inf

    def next_expiry_s(self) -> float:
        """When ``expire`` may next find something; infinity with nobody online."""
        return min((self.expires_s(node) for node in self.nodes), default=math.inf)

    def usable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes that are here, by name; a plan in force may use them."""
        return tuple(self.nodes[name].birth for name in sorted(self.nodes) if self.nodes[name].usable)

    def plannable(self) -> tuple[NodeBirth, ...]:
        """Births of the nodes that a new plan may use, by name."""
        return tuple(birth for birth in self.usable() if not self.why_drained(birth.node))

    def conditions(self) -> dict[str, Condition]:
        """What a plan should know of each node's battery and heat, by name."""
        return {name: node.health.condition for name, node in self.nodes.items()}

    def is_believed(self, node: str) -> bool:
        """Do this node's numbers make sense?"""
        known = self.nodes.get(node)
        return known is not None and not known.health.oddities

    def is_usable(self, node: str, incarnation: int) -> bool:
        """Is this very start of the node there?"""
        known = self.nodes.get(node)
        return known is not None and known.usable and known.birth.incarnation == incarnation

    def view(self, now_s: float) -> tuple[NodeView, ...]:
        """The nodes as ``linguabus nodes`` shows them."""
        return tuple(
            _view(self.nodes[name], self.labels.get(name), self.why_drained(name), now_s) for name in sorted(self.nodes)
        )


def _register(node: str, reason: str = "this start of the node is not known") -> Tell:
    return Tell(node, RegisterAgain(reason=reason))


def _state(node: Node) -> Literal["online", "silent", "offline", "refused"]:
    if node.refused:
        return "refused"
    if node.usable:
        return "online"
    return "silent" if node.online else "offline"


def _view(node: Node, label: str | None, drained: str, now_s: float) -> NodeView:
    birth, beat, health = node.birth, node.heartbeat, node.health
    return NodeView(
        node=birth.node,
        label=label,
        state=_state(node),
        reason=node.refused or ("" if node.online else node.offline_reason),
        heard_s_ago=round(max(0.0, now_s - node.heard_s), 3),
        incarnation=birth.incarnation,
        package_version=birth.package_version,
        platform=birth.platform,
        python=birth.python,
        onnxruntime=birth.onnxruntime,
        threads=birth.threads,
        memory_bytes=birth.memory_bytes,
        overhead_bytes=birth.overhead_bytes,
        storage_bytes=birth.storage_bytes,
        speed_flops=birth.speed_flops,
        hop_ms=birth.hop_s * 1e3,
        max_message_bytes=birth.max_message_bytes,
        uptime_s=beat.uptime_s if beat else None,
        rss_bytes=beat.rss_bytes if beat else None,
        peak_rss_bytes=beat.peak_rss_bytes if beat else None,
        available_bytes=beat.available_bytes if beat else None,
        blob_bytes=beat.blob_bytes if beat else None,
        standby_bytes=beat.standby_bytes if beat else None,
        cpu_percent=beat.cpu_percent if beat else None,
        battery_percent=beat.battery_percent if beat else None,
        charging=beat.charging if beat else None,
        battery_serving_percent_per_hour=health.trend.serving_percent_per_hour,
        battery_idle_percent_per_hour=health.trend.idle_percent_per_hour,
        temperature_c=beat.temperature_c if beat else None,
        battery_temperature_c=beat.battery_temperature_c if beat else None,
        cost_factor=health.condition.cost_factor,
        rtt_ms=beat.rtt_s * 1e3 if beat and beat.rtt_s is not None else None,
        leaving=node.leaving,
        flags=health.oddities,
        stages=tuple(
            HeldStage(pipeline=stage.pipeline, epoch=str(stage.epoch), stage=stage.stage)
            for stage in (beat.stages if beat else ())
        ),
        frames_rejected=beat.frames_rejected if beat else None,
        frames_dropped=beat.frames_dropped if beat else None,
        reconnects=beat.reconnects if beat else None,
        sent_bytes=beat.sent_bytes if beat else None,
        received_bytes=beat.received_bytes if beat else None,
        tokens=beat.tokens if beat else None,
        drained=drained,
    )
