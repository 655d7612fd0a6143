"""Plays schedules of faults on a world of real processes, and says what was lost."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.errors import BusError
from orchestrator.client import ClientError
from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from schemas.messages import PlanConstraints, Sampling
from tests.faults.player import Player
from tests.faults.schedule import (
    CLIENTS,
    HOLD_TODAY,
    MOST_TODAY_S,
    SHAPES,
    Kind,
    Schedule,
    make_schedule,
)
from tests.support.bus_recorder import until
from tests.support.fault_world import FaultWorld
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
    """What was done and when, and what was logged of requests that were lost."""

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


def play(world: FaultWorld, expected: Answers, schedule: Schedule) -> Report:
    """Play a schedule while readers keep asking, and look at everything afterwards."""
    readers = Readers(world.addresses, QUESTIONS, schedule.seed)
    player = Player(world, schedule)
    readers.start()
    wrong = []
    try:
        player.play()
        world.wait_until_serving()
    except AssertionError as error:
        wrong.append(str(error))
    wrong += [f"{name} waits for ever" for name in readers.stop(ANSWER_S)]
    mistakes = {one.request: line for one in readers.outcomes if (line := _mistake(one, expected, player.begin_s))}
    wrong += mistakes.values()
    try:
        if any(fault.kind is Kind.LAYERS_MOVED for fault in schedule.faults):
            _forget_constraints(world)
        world.wait_until_idle()
    except AssertionError as error:
        wrong.append(f"afterwards: {error}")
    wrong += world.recorder.take_violations()
    for name, part in world.parts.items():
        lines = part.new_lines()
        wrong += [f"{name} logged: {line}" for line in lines if _is_a_crash(line)]
        player.log += [f"{name}: {line}" for line in lines if any(request in line for request in mistakes)]
    return Report(schedule, sum(not outcome.error for outcome in readers.outcomes), wrong, player.log)


def _forget_constraints(world: FaultWorld) -> None:
    """What an operator wanted of plans is over, too."""

    def forgotten() -> bool:
        with suppress(ClientError, BusError), world.operator() as client:
            client.apply(PlanConstraints(), timeout_s=DEADLINE_S)
            return True
        return False

    until("an operator who is heard", forgotten)


def _is_a_crash(line: str) -> bool:
    """Is it something that nobody foresaw?"""
    return "Traceback" in line or " CRITICAL " in line or " ERROR " in line


def _mistake(outcome: Outcome, expected: Answers, begin_s: float) -> str:
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
    logging.getLogger("broker").setLevel(logging.ERROR)  # that connections are lost is no news here
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
