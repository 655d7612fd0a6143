"""What the plan gains over an even split on devices that are not alike.

Four node processes at relative speeds 1, 0.5, 0.25 and 0.25, scaled down together so that two cores carry them and
the broker, with memory capped so that none can hold the model alone. The nodes measure themselves and are planned as
in earnest; then plan and even split answer in turn over the same Mosquitto, one stream and eight.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness import PAIRS, Result, main, median_result, note
from measured import PROFILED_S, deploy, even_stages, observed, problem_of, profiles_of, solved
from rings import Homes, open_segment, ring_of_nodes
from smollm2 import QUESTION, open_smollm2

from orchestrator.model.model import Model
from orchestrator.planning.problem import Objective, Problem, Stage
from orchestrator.planning.profile import Profile
from orchestrator.planning.solver.solve import evaluate
from tests.support.ring import Answer, Ring

RELATIVE_SPEEDS = (1.0, 0.5, 0.25, 0.25)
SCALE = 0.3
CONTEXT_TOKENS = 512
CHUNK_TOKENS = 128
STREAMS = 8
OBSERVED_TOKENS = 24
EMULATED_UNITS, EMULATED_RUNS = 11, 20


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    relative_speeds: tuple[float, ...] = RELATIVE_SPEEDS
    scale: float = SCALE
    profiled_s: float = PROFILED_S
    emulated_runs: int = EMULATED_RUNS
    observed_tokens: int = OBSERVED_TOKENS
    pairs: int = PAIRS
    tokens: tuple[int, int] = (40, 20)
    """Of one stream, and of each of eight."""
    objectives: int = 2


QUICK = Effort(
    (1.0, 0.5), 0.9, profiled_s=0.1, emulated_runs=2, observed_tokens=4, pairs=1, tokens=(4, 4), objectives=1
)


@dataclass(frozen=True)
class Fleet:
    """The nodes, and what they measured of themselves."""

    ring: Ring
    homes: Homes
    profiles: dict[str, Profile]


def measure(quick: bool) -> list[Result]:
    """The plan over the even split on four uneven devices."""
    effort = QUICK if quick else Effort()
    model = open_smollm2("fast")
    names = [f"node-{index}" for index in range(len(effort.relative_speeds))]
    speeds = {name: relative * effort.scale for name, relative in zip(names, effort.relative_speeds, strict=True)}
    each = {name: ["--emulate-speed", str(speed), "--watchdog-s", "20"] for name, speed in speeds.items()}
    with ring_of_nodes(model, names, each=each) as (ring, homes):
        fleet = Fleet(ring, homes, profiles_of(ring, model, homes, time_limit_s=effort.profiled_s))
        return [*_speeds(model, speeds, effort.emulated_runs), *_compare(fleet, model, effort)]


def _problem(fleet: Fleet, model: Model, streams: int, observed_tokens: int) -> Problem:
    """The planner's question, after what so many streams on the even split have shown."""
    even = _even(fleet, model)
    answers = _answers(fleet, model, even, streams, observed_tokens)
    rows = max(1, streams // len(even))
    profiles = observed(fleet.profiles, even, model.manifest.num_units, answers, rows=rows)
    return problem_of(
        fleet.ring, model, profiles, context_tokens=CONTEXT_TOKENS, slots=STREAMS, chunk_tokens=CHUNK_TOKENS
    )


def _even(fleet: Fleet, model: Model) -> tuple[Stage, ...]:
    return even_stages(list(fleet.homes), model.manifest.num_units)


class _Clock:
    """The CPU clock of a segment's runs, which remembers what it said: the second reading less the first is a run."""

    def __init__(self) -> None:
        self.readings_s: list[float] = []

    def __call__(self) -> float:
        self.readings_s.append(time.thread_time())
        return self.readings_s[-1]


def _speeds(model: Model, speeds: dict[str, float], runs: int) -> list[Result]:
    """Is a device as slow as it says? CPU time over elapsed time of its runs, one after the other and with pauses."""
    results = []
    for speed in sorted(set(speeds.values()), reverse=True):
        segment = open_segment(model, (0, EMULATED_UNITS, model.manifest.num_units), 0, emulated_speed=speed)
        segment.warm_up()
        for pause_s, how in ((0.0, "busy"), (0.02, "idle")):
            segment._clock = clock = _Clock()  # type: ignore[assignment]
            shares = []
            for _ in range(runs):
                time.sleep(pause_s)
                elapsed_s = segment.run(0, (CHUNK_TOKENS,), 1).compute_s
                shares.append((clock.readings_s[1] - clock.readings_s[0]) / elapsed_s)
                clock.readings_s.clear()
            errors = [100 * (share / speed - 1) for share in shares]
            name = f"emulated speed {speed:g}, {how}, error"
            results.append(median_result(name, errors, "%", at_least=-5.0, at_most=5.0))
    return results


def _compare(fleet: Fleet, model: Model, effort: Effort) -> list[Result]:
    even = _even(fleet, model)
    results = []
    goals = ((Objective.LATENCY, 1, 1.3), (Objective.THROUGHPUT, STREAMS, 1.7))
    for objective, streams, target in goals[: effort.objectives]:
        problem = replace(_problem(fleet, model, streams, effort.observed_tokens), objective=objective)
        plan = solved(problem)
        note(f"{objective.value}: " + ", ".join(f"{s.node} [{s.start}, {s.stop})" for s in plan.stages))
        ratios, errors = [], []
        tokens = effort.tokens[streams > 1]
        for _ in range(effort.pairs):
            planned_s = _token_s(fleet, model, plan.stages, streams, tokens)
            even_s = _token_s(fleet, model, even, streams, tokens)
            ratios.append(even_s / planned_s)
            if streams == 1:
                for stages, measured_s in ((plan.stages, planned_s), (even, even_s)):
                    errors.append(100 * (evaluate_s(problem, stages) / measured_s - 1))
            note(f"  {streams} streams: plan {planned_s * 1e3:.1f} ms, even {even_s * 1e3:.1f} ms per token")
        results.append(median_result(f"plan over even split, {streams} streams", ratios, "x", at_least=target))
        if errors:
            error = median_result(
                "predicted over measured time per token, error", errors, "%", at_least=-15.0, at_most=15.0
            )
            results.append(error)
    return results


def evaluate_s(problem: Problem, stages: tuple[Stage, ...]) -> float:
    """Predicted seconds per token of one stream."""
    free = tuple(replace(device, memory_bytes=2**50, storage_bytes=None) for device in problem.devices)
    return evaluate(replace(problem, devices=free), stages).predicted.decode_s


def _token_s(fleet: Fleet, model: Model, stages: tuple[Stage, ...], streams: int, tokens: int) -> float:
    """Seconds per token over all streams, decoding alone: from the last first token to the first end."""
    return _rate(_answers(fleet, model, stages, streams, tokens))


def _answers(fleet: Fleet, model: Model, stages: tuple[Stage, ...], streams: int, tokens: int) -> list[Answer]:
    deploy(fleet.ring, fleet.homes, stages, context_tokens=CONTEXT_TOKENS, slots=STREAMS, chunk_tokens=CHUNK_TOKENS)
    prompt = model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}])
    answers = [fleet.ring.open(prompt, tokens) for _ in range(streams)]
    for answer in answers:
        fleet.ring.wait("an answer", lambda answer=answer: bool(answer.finish), 300.0)  # type: ignore[misc]
    for answer in answers:
        fleet.ring.close_request(answer)
    return answers


def _rate(answers: Sequence[Answer]) -> float:
    begin_s = max(answer.arrivals_s[0] for answer in answers)
    end_s = min(answer.arrivals_s[-1] for answer in answers)
    if len(answers) == 1:
        gaps = [b - a for a, b in zip(answers[0].arrivals_s, answers[0].arrivals_s[1:], strict=False)]
        return statistics.median(gaps)
    counted = sum(1 for answer in answers for time_s in answer.arrivals_s if begin_s < time_s <= end_s)
    return (end_s - begin_s) / max(counted, 1)


if __name__ == "__main__":
    main("planned_vs_even", measure)
