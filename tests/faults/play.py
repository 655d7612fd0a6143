"""Plays schedules of faults on a world of real processes, and says what was lost."""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.errors import BusError
from orchestrator.client import ClientError
from orchestrator.commands.settings import default_cache
from orchestrator.demo.model import demo_model
from schemas.messages import PlanConstraints, Sampling
from tests.faults.schedule import (
    CLIENTS,
    HOLD_TODAY,
    MOST_TODAY_S,
    ON_ALL,
    ON_RING,
    SHAPES,
    Fault,
    Kind,
    Schedule,
    make_schedule,
)
from tests.support.bus_recorder import until
from tests.support.fault_world import ORCHESTRATOR, FaultWorld
from tests.support.mqtt_packets import Publish
from tests.support.mqtt_proxy import MqttProxy, Rule, Send, Side
from tests.support.polling import DEADLINE_S
from tests.support.readers import Outcome, Question, Readers, ask

QUESTIONS = (
    Question("The capital of France is", 24),
    Question("Why is the sky blue? Because", 20),
    Question("def fibonacci(n):", 24, Sampling(repetition_penalty=1.2)),
    Question("Once upon a time there was a", 24, Sampling(temperature=0.9, seed=7)),
    Question("A recipe for bread:", 24, Sampling(temperature=0.7, top_p=0.9, seed=3)),
    Question("The largest cities of Germany are Berlin,", 20, Sampling(temperature=1.2, seed=11)),
)
SHRUNK_SHARE = 0.75
"""Of its memory limit, what a node whose layers are to move away may use for the model."""
FRAMES = ("linguabus/v1/segment/#", "linguabus/v1/token/#")
MESSAGES = ("linguabus/v1/node/+/command", "linguabus/v1/node/+/reply", "linguabus/v1/request/#", "linguabus/v1/plan/#")
LATE_S = 0.3
ANSWER_S = 150.0
"""Whoever waits for an answer is answered by then: requests wait for 120 s."""


Answers = dict[int, tuple[str, tuple[int, ...]]]
"""Text and tokens, by the question's number."""


@dataclass
class Report:
    """What came of a schedule."""

    schedule: Schedule
    answered: int
    wrong: list[str]
    """Everything that should not be, one line each."""
    log: list[str] = field(default_factory=list)
    """What was done, and when."""

    def __str__(self) -> str:
        found = [f"  {line}" for line in self.wrong] or ["  nothing was lost"]
        return "\n".join([str(self.schedule), *self.log, f"{self.answered} answers", *found])


class Worlds:
    """A world for schedules that are played one after the other; a new one after something went wrong.

    A context manager: leaving it ends the world.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        """``options`` are those of `FaultWorld`."""
        self._folder = folder
        self._options = options
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._current: tuple[FaultWorld, Answers] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def current(self) -> tuple[FaultWorld, Answers]:
        """The world, and the answers that it gives as long as nothing happens."""
        if self._current is None:
            store, model = demo_model(default_cache(), "steady")
            folder = self._folder / f"world-{next(self._numbers)}"
            world = self._stack.enter_context(FaultWorld(folder, store, model, clients=CLIENTS, **self._options))
            self._current = world, answers_of(world)
        return self._current

    def play(self, schedule: Schedule) -> Report:
        """Play a schedule in the world, which ends if anything was lost: what is left of it proves nothing."""
        report = play(*self.current(), schedule)
        if report.wrong:
            self._stack.close()
            self._current = None
        return report


def answers_of(world: FaultWorld) -> Answers:
    """What the questions are answered."""

    def answer(index: int) -> Outcome:
        with world.operator() as client:
            return ask(client, QUESTIONS, index)

    with ThreadPoolExecutor(CLIENTS) as pool:
        outcomes = list(pool.map(answer, range(len(QUESTIONS))))
    assert not any(outcome.error for outcome in outcomes), outcomes
    return {outcome.question: outcome.said for outcome in outcomes}


class Player:
    """Plays one schedule. Whatever happens, all faults are over afterwards."""

    def __init__(self, world: FaultWorld, schedule: Schedule) -> None:
        self._world = world
        self._schedule = schedule
        self._chance = random.Random(schedule.seed)
        self._due: list[tuple[float, int, str, Callable[[], None]]] = []
        """What ends when: (monotonic clock, order, what it is, how)."""
        self._order = itertools.count()
        self._away: set[str] = set()
        self._operators: list[threading.Thread] = []
        self._begin_s = time.monotonic()
        self.log: list[str] = []

    def play(self) -> None:
        """Have everything happen in its time, and end."""
        try:
            for fault in self._schedule.faults:
                self._wait_until(self._begin_s + fault.at_s)
                if fault.kind in ON_RING or fault.kind is Kind.NODES_KILLED:
                    self._wait_for_a_spare()
                self._begin(fault)
            while self._due:
                self._wait_until(self._due[0][0])
            for operator in self._operators:
                operator.join(DEADLINE_S)
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
        while self._away or not self._world.is_whole():
            assert time.monotonic() < end_s, f"{self._away or 'nodes'} did not come back"
            self._wait_until(time.monotonic() + 0.05)

    def _note(self, what: str) -> None:
        self.log.append(f"  {time.monotonic() - self._begin_s:6.1f} s  {what}")

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
        share = shape.repeated if kind in (Kind.FRAMES_REPEATED, Kind.MESSAGES_REPEATED) else shape.altered
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
        return [Send(publish), Send(publish, LATE_S * chance.random(), overtake=True)]

    if kind is Kind.FRAMES_ALTERED:
        return damaged  # frames have a CRC
    return cut_short if kind is Kind.MESSAGES_ALTERED else twice


def play(world: FaultWorld, expected: Answers, schedule: Schedule) -> Report:
    """Play a schedule while readers keep asking, and look at everything afterwards."""
    readers = Readers(world.addresses, QUESTIONS, schedule.seed)
    player = Player(world, schedule)
    readers.start()
    player.play()
    wrong = [f"{name} waits for ever" for name in readers.stop(ANSWER_S)]
    wrong += [line for outcome in readers.outcomes if (line := _mistake(world, outcome, expected, player._begin_s))]
    try:
        if any(fault.kind is Kind.LAYERS_MOVED for fault in schedule.faults):
            _forget_constraints(world)
        world.wait_until_idle()
    except AssertionError as error:
        wrong.append(f"afterwards: {error}")
    wrong += world.recorder.take_violations()
    return Report(schedule, sum(not outcome.error for outcome in readers.outcomes), wrong, player.log)


def _forget_constraints(world: FaultWorld) -> None:
    """What an operator wanted of plans is over, too."""

    def forgotten() -> bool:
        with suppress(ClientError, BusError), world.operator() as client:
            client.apply(PlanConstraints(), timeout_s=DEADLINE_S)
            return True
        return False

    until("an operator who is heard", forgotten)


def _mistake(world: FaultWorld, outcome: Outcome, expected: Answers, begin_s: float) -> str:
    """What is wrong with an answer; empty if nothing is."""
    when = f"{outcome.began_s - begin_s:.1f} s to {outcome.ended_s - begin_s:.1f} s"
    if outcome.error:
        return f"lost: {outcome.request} ({when}), after {len(outcome.token_ids)} tokens: {outcome.error}"
    if outcome.said != expected[outcome.question]:
        whole = expected[outcome.question][1]
        pairs = enumerate(zip(outcome.token_ids, whole, strict=False))
        first = next((index for index, (a, b) in pairs if a != b), min(len(whole), len(outcome.token_ids)))
        return (
            f"wrong: {outcome.request} ({when}) answers question {outcome.question} otherwise from token {first} on:"
            f" {outcome.token_ids[first : first + 5]}, not {whole[first : first + 5]}"
        )
    return ""


def main() -> None:
    """Print and play schedules from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.schedule", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the schedule to play")
    parser.add_argument("--count", type=int, default=1, help="how many, from this seed on")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="short")
    parser.add_argument(
        "--kinds", help="of these kinds alone, with commas, however long; 'all' for all. Default: what holds today"
    )
    parser.add_argument("--folder", type=Path, help="where homes and logs go, and stay")
    parser.add_argument("--forgetful", action="store_true", help="the broker loses what is retained when it is killed")
    parser.add_argument("--print", action="store_true", help="print the schedules, and play nothing")
    options = parser.parse_args()
    kinds = frozenset(Kind) if options.kinds == "all" else HOLD_TODAY
    if options.kinds not in (None, "all"):
        kinds = frozenset(Kind[name.strip().upper()] for name in options.kinds.split(","))
    seeds = range(options.seed, options.seed + options.count)
    most_s = {} if options.kinds else MOST_TODAY_S
    schedules = [make_schedule(seed, SHAPES[options.shape], kinds, most_s) for seed in seeds]
    if options.print:
        print(*schedules, sep="\n")
        return
    lost = 0
    with (
        tempfile.TemporaryDirectory() as temporary,
        Worlds(options.folder or Path(temporary), retains=not options.forgetful) as worlds,
    ):
        for schedule in schedules:
            report = worlds.play(schedule)
            print(report, flush=True)
            lost += bool(report.wrong)
    print(f"{len(schedules) - lost} of {len(schedules)} schedules lost nothing")
    sys.exit(bool(lost))
