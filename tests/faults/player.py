"""Makes faults happen in a world of real processes, in their time."""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from broker.errors import BusError
from orchestrator.client import ClientError
from schemas.messages import PlanConstraints
from tests.faults.schedule import ON_ALL, ON_RING, Fault, Kind, Schedule
from tests.support.bus_recorder import until
from tests.support.fault_world import ORCHESTRATOR, FaultWorld, Part
from tests.support.mqtt_packets import Publish
from tests.support.mqtt_proxy import MqttProxy, Rule, Send, Side
from tests.support.polling import DEADLINE_S

SHRUNK_SHARE = 0.75
"""Of its memory limit, what a node whose layers are to move away may use for the model."""
FRAMES = ("linguabus/v1/segment/#", "linguabus/v1/token/#")
LATE_S = 0.3
MESSAGES = ("linguabus/v1/node/+/command", "linguabus/v1/node/+/reply", "linguabus/v1/request/#", "linguabus/v1/plan/#")


class Player:
    """Plays one schedule. Whatever happens, all faults are over afterwards."""

    def __init__(self, world: FaultWorld, schedule: Schedule) -> None:
        self._world = world
        self._schedule = schedule
        self._due: list[tuple[float, int, str, Callable[[], None]]] = []
        """What ends when: (monotonic clock, order, what it is, how)."""
        self._order = itertools.count()
        self._away: set[str] = set()
        """Whom a fault has taken away that is not over."""
        self._operators: list[threading.Thread] = []
        self._replaced: list[Part] = []
        self.begin_s = time.monotonic()
        self.log: list[str] = []

    def play(self) -> None:
        """Have everything happen in its time, and end."""
        try:
            for fault in self._schedule.faults:
                self._wait_until(self.begin_s + fault.at_s)
                if fault.kind in ON_RING or fault.kind is Kind.NODES_KILLED:
                    self._wait_for_a_spare()
                self._begin(fault)
            while self._due:
                self._wait_until(self._due[0][0])
            for operator in self._operators:
                operator.join(DEADLINE_S)
            if self._replaced:
                # The one that took over may have ended since, as its link was cut when it was started again: then the
                # one before serves on, as it should, until the other is back.
                self._world.repair()
            for orchestrator in self._replaced:
                until("the end of an orchestrator that another one has replaced", lambda: not orchestrator.running)  # noqa: B023
                self._world.forget(orchestrator)
        finally:
            self._world.repair()

    def _wait_until(self, at_s: float) -> None:
        """Wait; what is to end meanwhile ends."""
        while self._due and self._due[0][0] <= at_s:
            due_s, _, what, end = heapq.heappop(self._due)
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._note(f"over: {what}")
            end()
        time.sleep(max(0.0, at_s - time.monotonic()))

    def _wait_for_a_spare(self) -> None:
        end_s = time.monotonic() + DEADLINE_S
        while self._away & {*self._world.node_names} or not self._world.is_whole():
            self._world.restart_ended(self._away)
            assert time.monotonic() < end_s, f"nodes did not come back: {self._world.recorder.online()} are here"
            self._wait_until(time.monotonic() + 0.05)

    def _note(self, what: str) -> None:
        self.log.append(f"  {time.monotonic() - self.begin_s:6.1f} s  {what}")

    def _begin(self, fault: Fault) -> None:
        target = self._target(fault)
        what = f"{fault.kind.name.lower()} {target}".rstrip()
        self._note(what)
        ends = self._ends(fault, target)
        if ends is not None:
            heapq.heappush(self._due, (time.monotonic() + fault.lasts_s, next(self._order), what, ends))

    def _target(self, fault: Fault) -> str:
        if fault.kind.name.startswith("ORCHESTRATOR"):
            return ORCHESTRATOR
        if fault.kind.name.startswith("CLIENT"):
            return self._world.client_names[int(fault.place)]
        if not fault.place:
            return ""
        ring = self._world.recorder.ring() or self._world.node_names
        return {"first": ring[0], "middle": ring[len(ring) // 2], "last": ring[-1]}[fault.place]

    def _ends(self, fault: Fault, target: str) -> Callable[[], None] | None:
        """Begin it; how to end it, or None where it is over."""
        world, kind = self._world, fault.kind
        match kind:
            case Kind.NODE_KILLED | Kind.ORCHESTRATOR_KILLED:
                return self._kill(target)
            case Kind.ORCHESTRATOR_REPLACED:
                if any(before.running for before in self._replaced):
                    return None  # one at a time: one that stands still before it serves takes over when it goes on
                part = world.parts[target]
                part.freeze()
                before = world.replace_orchestrator()
                self._replaced += [before] if world.parts[target].running else []
                return part.thaw
            case Kind.NODES_KILLED:
                ring = list(dict.fromkeys(world.recorder.ring() or world.node_names))
                again = [self._kill(node) for node in ring[:2]]
                return lambda: [end() for end in again] and None
            case Kind.NODE_FROZEN | Kind.ORCHESTRATOR_FROZEN:
                part = world.parts[target]
                part.freeze()
                return self._back(target, part.thaw)
            case Kind.NODE_CUT | Kind.ORCHESTRATOR_CUT | Kind.CLIENT_CUT:
                proxy = world.proxies[target]
                proxy.refuse_new = True
                proxy.cut()
                return self._back(target, lambda: setattr(proxy, "refuse_new", False))
            case Kind.NODE_SILENT | Kind.ORCHESTRATOR_SILENT | Kind.CLIENT_SILENT:
                proxy = world.proxies[target]
                proxy.fall_silent()
                return self._back(target, proxy.speak)
            case Kind.CLIENT_RECONNECTS:
                world.proxies[target].cut()
            case Kind.BROKER_RESTARTED:
                world.broker.restart()
            case Kind.BROKER_AWAY:
                world.broker.kill()
                return world.broker.restart
            case Kind.HOST_KILLED:
                ends = [world.broker.restart, self._kill(ORCHESTRATOR)]
                world.broker.kill()
                return lambda: [end() for end in ends] and None
            case _ if kind in ON_ALL:
                return self._disturb(kind)
            case Kind.LAYERS_MOVED:
                limit = max(1, round(SHRUNK_SHARE * world.limit_mb))
                self._operate(PlanConstraints(max_memory_mb=((target, limit),)))
            case Kind.REBALANCED:
                self._operate(None)
        return None

    def _kill(self, target: str) -> Callable[[], None]:
        part = self._world.parts[target]
        part.end()
        return self._back(target, part.start)

    def _back(self, target: str, how: Callable[[], None]) -> Callable[[], None]:
        self._away.add(target)

        def back() -> None:
            how()
            self._away.discard(target)

        return back

    def _disturb(self, kind: Kind) -> Callable[[], None]:
        """Damage or repeat what arrives, at everybody."""
        shape = self._schedule.shape
        share = shape.altered if kind in (Kind.FRAMES_ALTERED, Kind.MESSAGES_ALTERED) else shape.repeated
        patterns = FRAMES if kind in (Kind.FRAMES_ALTERED, Kind.FRAMES_REPEATED) else MESSAGES
        rules: list[tuple[MqttProxy, Rule]] = []
        for name, proxy in self._world.proxies.items():
            chance = random.Random(f"{self._schedule.seed} {kind.name} {name}")
            for pattern in patterns:
                action = _action(kind, chance)
                when = _now_and_then(share, chance)
                rules.append((proxy, proxy.rule(pattern, action, side=Side.DOWN, when=when)))

        def end() -> None:
            for proxy, rule in rules:
                proxy.remove(rule)
            self._note(f"{sum(rule.hits for _, rule in rules)} messages: {kind.name.lower()}")

        return end

    def _operate(self, constraints: PlanConstraints | None) -> None:
        """Have an operator want something. That it is refused, or nobody answers, is no loss."""

        def operate() -> None:
            with suppress(ClientError, BusError), self._world.operator() as client:
                if constraints is None:
                    client.rebalance(timeout_s=DEADLINE_S)
                else:
                    client.apply(constraints, timeout_s=DEADLINE_S)

        self._operators.append(threading.Thread(target=operate, name="operator"))
        self._operators[-1].start()


def _now_and_then(share: float, chance: random.Random) -> Callable[[Publish], bool]:
    return lambda _: chance.random() < share


def _action(kind: Kind, chance: random.Random) -> Callable[[Publish], Sequence[Send]]:
    def damaged(publish: Publish) -> Sequence[Send]:
        payload = bytearray(publish.payload)
        if payload:
            payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
        return [Send(publish.with_payload(bytes(payload)))]

    def cut_short(publish: Publish) -> Sequence[Send]:
        return [Send(publish.with_payload(publish.payload[: len(publish.payload) // 2]))]

    def twice(publish: Publish) -> Sequence[Send]:
        return [Send(publish)] * 2

    def twice_and_late(publish: Publish) -> Sequence[Send]:
        return [Send(publish), Send(publish, LATE_S * chance.random(), overtake=True)]

    return {
        Kind.FRAMES_ALTERED: damaged,  # frames have a CRC
        Kind.FRAMES_REPEATED: twice_and_late,
        Kind.MESSAGES_ALTERED: cut_short,
        Kind.MESSAGES_REPEATED: twice,
        Kind.MESSAGES_LATE: twice_and_late,
    }[kind]
