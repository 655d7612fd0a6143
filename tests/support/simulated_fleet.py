"""A whole installation in simulated time, and a schedule of faults that is played on it.

The cores of nodes and orchestrator, the orchestrator's service and the readers of clients are the real ones. What a
fake model computes depends on every row of every KV cache, so that a wrong row gives a wrong text.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from schemas.messages import ApplyConstraints, PlanConstraints, Rebalance, SubmitRequest, encode
from schemas.topics import CONTROL_SUBMIT
from tests.faults.schedule import CLIENTS, ON_ALL, ON_RING, Fault, Kind, Schedule
from tests.support.bus_invariants import BusInvariants
from tests.support.simulated_network import Clock, SimulatedBroker, SimulatedBus, intact, matches
from tests.support.simulated_parts import Client, Node, Orchestrator, letter_of
from tests.support.simulated_ring import reference_tokens

NODES = ("a", "b", "c", "d")
"""Any three of them hold the model; two do not."""
LAYERS = 4
FRAMES = ("linguabus/v1/segment/#", "linguabus/v1/token/#")
MESSAGES = ("linguabus/v1/node/+/command", "linguabus/v1/node/+/reply", "linguabus/v1/request/#", "linguabus/v1/plan/#")
LATE_S = 0.3
PATIENCE_S = 120.0
END_S = 400.0
"""After the last fault: by then every question has been answered."""
IDLE_S = 60.0
"""After the last answer: by then nothing is open anywhere."""
QUESTIONS = (("hello", 24), ("a longer question, in two chunks", 20), ("hello there", 12), ("abcabcabcabc", 30))


@dataclass
class Report:
    """What came of a schedule."""

    schedule: Schedule
    answered: int = 0
    messages: int = 0
    simulated_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Everything that should not be, one line each."""
    log: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        found = [f"  {line}" for line in self.wrong] or ["  nothing was lost"]
        return "\n".join([str(self.schedule), *self.log, f"{self.answered} answers", *found])


def _answer(question: int) -> tuple[int, ...]:
    prompt, count = QUESTIONS[question]
    return tuple(reference_tokens([ord(letter) for letter in prompt], count, LAYERS, letter_of))


EXPECTED = [_answer(question) for question in range(len(QUESTIONS))]


class SimulatedFleet:
    """Four nodes, an orchestrator, a broker and clients, in simulated time."""

    def __init__(self, folder: Path, schedule: Schedule, *, retains: bool = True) -> None:
        self.clock = Clock()
        self.broker = SimulatedBroker(self.clock)
        self.checker = BusInvariants()
        self.report = Report(schedule)
        self._retains = retains
        self._chance = random.Random(f"questions {schedule.seed}")
        self._requests = 0
        self._away: set[str] = set()
        self._disturbances: list[Callable[[str, bytes], list[tuple[bytes, float]] | None]] = []
        self.broker.seen = self._see
        self.nodes = {name: Node(name, self.clock, self.broker) for name in NODES}
        self._folder, self._draft_tokens = folder, schedule.seed % 3 * 2
        self.orchestrator = Orchestrator(self.clock, self.broker, folder, self._draft_tokens)
        self.replaced: list[Orchestrator] = []
        self.clients = [
            Client(f"client-{number}", self.clock, self.broker, self._next_question) for number in range(CLIENTS)
        ]
        self._operator = SimulatedBus(self.broker, "operator", wake=lambda: None)

    def close(self) -> None:
        """Let go of files."""
        for orchestrator in (*self.replaced, self.orchestrator):
            orchestrator.close()

    def _see(self, topic: str, payload: bytes) -> None:
        self.report.messages += 1
        self.checker.take(topic, payload)

    def _next_question(self) -> tuple[int, SubmitRequest]:
        question = self._chance.randrange(len(QUESTIONS))
        self._requests += 1
        prompt, count = QUESTIONS[question]
        submit = SubmitRequest(
            client="", request=f"{self._requests:016x}", prompt=prompt, max_tokens=count, patience_s=PATIENCE_S
        )
        return question, submit

    # --- playing ----------------------------------------------------------------------------------------------

    def play(self) -> Report:
        """Start everything, have all faults happen while questions are asked, and look at everything afterwards."""
        for node in self.nodes.values():
            node.start()
        self.orchestrator.start()
        self._operator.connect()
        try:
            self._run_until(lambda: bool(self.checker.rings.get("main")), 30.0, "a first plan")
            for client in self.clients:
                client.start()
            self._begin_s = self.clock.now_s
            self._play_faults()
            for client in self.clients:
                client.stops = True
            self._run_until(lambda: all(client.is_done for client in self.clients), END_S, "all answers")
            self._operate(PlanConstraints())
            self._run_until(self._is_idle, IDLE_S, "an idle fleet")
        except AssertionError as error:
            self.report.wrong.append(str(error))
        self._judge()
        self.report.simulated_s = self.clock.now_s - 1000.0
        return self.report

    def _run_until(self, holds: Callable[[], bool], limit_s: float, what: str) -> None:
        end_s = self.clock.now_s + limit_s
        while not holds():
            assert self.clock.now_s < end_s, f"waited {limit_s:g} s for {what}: {self._state()}"
            self.clock.step()

    def _state(self) -> str:
        service = self.orchestrator.service
        waiting = [client.name for client in self.clients if not client.is_done]
        pipeline = service.core.plane.pipeline if service else None
        return f"{waiting} wait; the orchestrator is {pipeline.state() if pipeline else 'gone'}"

    def _wait(self, until_s: float) -> None:
        passed: list[bool] = []
        self.clock.at(until_s, lambda: passed.append(True))
        while not passed:
            self.clock.step()

    def _play_faults(self) -> None:
        end_s = self.clock.now_s
        for fault in self.report.schedule.faults:
            self._wait(self._begin_s + fault.at_s)
            if fault.kind in ON_RING or fault.kind is Kind.NODES_KILLED:
                self._run_until(self._is_whole, END_S, "all nodes")
            end_s = max(end_s, self.clock.now_s + fault.lasts_s)
            self._happen(fault)
        self._wait(end_s + 0.001)
        self._run_until(lambda: not self._away, END_S, "the end of all faults")

    def _is_whole(self) -> bool:
        ring = self.checker.rings.get("main", ())
        return not self._away & set(NODES) and {*NODES} <= self.checker.online and bool(ring)

    def _note(self, what: str) -> None:
        self.report.log.append(f"  {self.clock.now_s - self._begin_s:6.2f} s  {what}")

    # --- faults -----------------------------------------------------------------------------------------------

    def _target(self, fault: Fault) -> str:
        if not fault.place or fault.kind.name.startswith("CLIENT"):
            return fault.place
        ring = self.checker.rings.get("main") or NODES
        return {"first": ring[0], "middle": ring[len(ring) // 2], "last": ring[-1]}[fault.place]

    def _bus_of(self, fault: Fault, target: str) -> SimulatedBus:
        if fault.kind.name.startswith("CLIENT"):
            return self.clients[int(target)].bus
        bus = self.orchestrator.bus if fault.kind.name.startswith("ORCHESTRATOR") else self.nodes[target].bus
        assert bus
        return bus

    def _happen(self, fault: Fault) -> None:
        if fault.kind is Kind.ORCHESTRATOR_REPLACED and not self.orchestrator.serves:
            return  # who does not serve yet would take over when it does
        target, kind = self._target(fault), fault.kind
        self._note(f"{kind.name.lower()} {target}".rstrip())
        match kind:
            case Kind.NODE_KILLED | Kind.NODE_FROZEN:
                node = self.nodes[target]
                begin, end = (node.kill, node.start) if kind is Kind.NODE_KILLED else (node.freeze, node.thaw)
                self._away_for(target, fault.lasts_s, begin, end)
            case Kind.NODES_KILLED:
                ring = list(dict.fromkeys(self.checker.rings.get("main") or NODES))
                for name in ring[:2]:
                    self._away_for(name, fault.lasts_s, self.nodes[name].kill, self.nodes[name].start)
            case Kind.ORCHESTRATOR_KILLED:
                self._away_for("orchestrator", fault.lasts_s, self.orchestrator.kill, self.orchestrator.start)
            case Kind.ORCHESTRATOR_REPLACED:
                before = self.orchestrator
                self.replaced.append(before)
                self.orchestrator = Orchestrator(
                    self.clock, self.broker, self._folder, self._draft_tokens, takes_over=len(self.replaced)
                )
                self._away_for("replaced", fault.lasts_s, before.freeze, before.thaw)
                self.orchestrator.start()
            case Kind.ORCHESTRATOR_FROZEN:
                self._away_for("orchestrator", fault.lasts_s, self.orchestrator.freeze, self.orchestrator.thaw)
            case Kind.NODE_CUT | Kind.ORCHESTRATOR_CUT | Kind.CLIENT_CUT:
                bus = self._bus_of(fault, target)
                self._away_for(bus.client_id, fault.lasts_s, bus.cut, bus.mend)
            case Kind.NODE_SILENT | Kind.ORCHESTRATOR_SILENT | Kind.CLIENT_SILENT:
                bus = self._bus_of(fault, target)
                self._away_for(bus.client_id, fault.lasts_s, bus.fall_silent, bus.speak)
            case Kind.CLIENT_RECONNECTS:
                self._bus_of(fault, target).drop()
            case Kind.BROKER_RESTARTED | Kind.BROKER_AWAY | Kind.HOST_KILLED:
                self.broker.stop(forget=not self._retains)
                self._away_for("broker", fault.lasts_s, lambda: None, lambda: setattr(self.broker, "is_up", True))
                if kind is Kind.HOST_KILLED:
                    self._away_for("orchestrator", fault.lasts_s, self.orchestrator.kill, self.orchestrator.start)
            case _ if kind in ON_ALL:
                self._disturb(kind, fault.lasts_s)
            case Kind.LAYERS_MOVED:
                limit_mb = max(1, round(0.9 * self.nodes[target].birth.memory_bytes / 1e6))
                self._operate(PlanConstraints(max_memory_mb=((target, limit_mb),)))
            case Kind.REBALANCED:
                self._operate(None)

    def _away_for(self, who: str, lasts_s: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._away.add(who)
        begin()

        def over() -> None:
            self._note(f"over: {who}")
            end()
            self._away.discard(who)

        self.clock.after(lasts_s, over)

    def _operate(self, constraints: PlanConstraints | None) -> None:
        wish = Rebalance() if constraints is None else ApplyConstraints(constraints=constraints)
        self._requests += 1
        topic = CONTROL_SUBMIT.format(client="operator", request=f"{self._requests:016x}")
        self._operator.publish(topic, encode(wish), qos=1)

    def _disturb(self, kind: Kind, lasts_s: float) -> None:
        shape, chance = self.report.schedule.shape, random.Random(f"{self.report.schedule.seed} {kind.name}")
        share = shape.altered if kind in (Kind.FRAMES_ALTERED, Kind.MESSAGES_ALTERED) else shape.repeated
        patterns = FRAMES if kind in (Kind.FRAMES_ALTERED, Kind.FRAMES_REPEATED) else MESSAGES

        def disturb(topic: str, payload: bytes) -> list[tuple[bytes, float]] | None:
            if not any(matches(pattern, topic) for pattern in patterns) or chance.random() >= share or not payload:
                return None
            match kind:
                case Kind.FRAMES_ALTERED:
                    data = bytearray(payload)
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                    return [(bytes(data), 0.0)]
                case Kind.MESSAGES_ALTERED:
                    return [(payload[: len(payload) // 2], 0.0)]
                case Kind.MESSAGES_REPEATED:
                    return [(payload, 0.0)] * 2
            return [(payload, 0.0), (payload, LATE_S * chance.random())]

        self._disturbances.append(disturb)
        self.broker.fate = self._fate
        self.clock.after(lasts_s, lambda: self._disturbances.remove(disturb))

    def _fate(self, topic: str, payload: bytes) -> list[tuple[bytes, float]]:
        for disturb in self._disturbances:
            arrives = disturb(topic, payload)
            if arrives is not None:
                return arrives
        return list(intact(topic, payload))

    # --- judging ----------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        service = self.orchestrator.service
        return (
            service is not None
            and not service.core.plane.pipeline.requests.open_count
            and not any(self.checker.open_requests.values())
            and self._is_whole()
            and not any(orchestrator.is_alive for orchestrator in self.replaced)
        )

    def _judge(self) -> None:
        wrong = self.report.wrong
        for client in self.clients:
            for one in client.outcomes:
                expected = EXPECTED[one.question]
                when = f"{one.request} ({one.began_s - self._begin_s:.2f} s to {one.ended_s - self._begin_s:.2f} s)"
                if one.error:
                    wrong.append(f"lost: {when}, after {len(one.token_ids)} tokens: {one.error}")
                elif one.token_ids != expected or one.text != "".join(map(chr, expected)):
                    wrong.append(f"wrong: {when}: {one.text!r}, not {''.join(map(chr, expected))!r}")
                self.report.answered += not one.error
        wrong += self.checker.violations
        if self.orchestrator.superseded:
            wrong.append("the newest orchestrator has yielded")


def play(folder: Path, schedule: Schedule, *, retains: bool = True) -> Report:
    """Play a schedule in a fleet of its own."""
    fleet = SimulatedFleet(folder, schedule, retains=retains)
    try:
        return fleet.play()
    finally:
        fleet.close()
