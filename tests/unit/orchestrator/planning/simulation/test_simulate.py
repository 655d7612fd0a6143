"""The simulated fleet does what the predictions say, and goes on when devices slow down, leave and come back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.planning.cost import predict
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.simulation.play import quick_replan
from orchestrator.planning.simulation.report import Report, report_text, summarise
from orchestrator.planning.simulation.scenario import FleetEvent, Move, Observation, Record, Workload
from orchestrator.planning.simulation.simulate import Simulation
from tests.support.fleets import device, fleet

PAIR = fleet(device("a", 1.0, 900, hop_ms=2.0), device("b", 2.0, 900, hop_ms=3.0))
SPLIT = (Stage("a", 0, 7), Stage("b", 7, 12))
RING = (Stage("a", 0, 7), Stage("b", 7, 11), Stage("a", 11, 12))
DECODE_ONLY = Workload(prompt_tokens=1, answer_tokens=10**6, duration_s=60, warmup_s=20)


def run(problem: Problem, stages: tuple[Stage, ...], workload: Workload, *events: FleetEvent) -> Record:
    return Simulation([problem], [stages], workload, events, replan=quick_replan).run()


def reported(problem: Problem, stages: tuple[Stage, ...], workload: Workload, *events: FleetEvent) -> Report:
    return summarise(run(problem, stages, workload, *events), workload, 1, 0.0)


@pytest.mark.parametrize("stages", [SPLIT, RING, (Stage("a", 0, 12),)])
def test_one_stream_takes_the_predicted_time_per_token(stages: tuple[Stage, ...]) -> None:
    problem = replace(PAIR, devices=tuple(replace(one, memory_bytes=10**10) for one in PAIR.devices))
    record = run(problem, stages, DECODE_ONLY)
    expected = predict(problem, stages).decode_s
    assert record.token_gap_s
    assert record.token_gap_s == pytest.approx([expected] * len(record.token_gap_s))


@pytest.mark.parametrize("stages", [SPLIT, RING])
@pytest.mark.parametrize("streams", [1, 2, 3, 8])
def test_streams_share_the_pipeline_as_predicted(stages: tuple[Stage, ...], streams: int) -> None:
    problem = replace(PAIR, streams=streams)
    report = reported(problem, stages, replace(DECODE_ONLY, streams=streams))
    expected = predict(problem, stages).tokens_per_s_many
    # Between "all in step" and "never waiting" queues cost a little when streams only just fill the pipeline.
    assert report.tokens_per_s <= expected * 1.001
    assert report.tokens_per_s >= expected * (0.75 if streams in (2, 3) else 0.99)


def test_batches_raise_what_many_streams_get() -> None:
    batched = tuple(replace(one, decode_batched_s=tuple(figure / 2 for figure in one.decode_s)) for one in PAIR.devices)
    problem = replace(PAIR, devices=batched, streams=32)
    report = reported(problem, SPLIT, replace(DECODE_ONLY, streams=32))
    assert report.tokens_per_s == pytest.approx(predict(problem, SPLIT).tokens_per_s_many, rel=0.02)


def test_the_first_token_comes_when_predicted() -> None:
    record = run(replace(PAIR, prompt_tokens=200), SPLIT, Workload(prompt_tokens=200, answer_tokens=5, duration_s=30))
    expected = predict(replace(PAIR, prompt_tokens=200), SPLIT).ttft_s
    # The last chunk is a short one, which the prediction counts as its share of a full one.
    assert record.ttft_s[0] == pytest.approx(expected, rel=0.05)
    assert record.finished == len(record.ttft_s) - 1 or record.finished == len(record.ttft_s)


def test_the_same_seed_plays_the_same() -> None:
    workload = Workload(streams=3, duration_s=10, jitter=0.2, seed=7)
    assert run(PAIR, SPLIT, workload) == run(PAIR, SPLIT, workload)
    assert run(PAIR, SPLIT, workload) != run(PAIR, SPLIT, replace(workload, seed=8))


def test_arrivals_at_random_are_served_at_their_rate() -> None:
    workload = Workload(arrivals_per_s=2.0, prompt_tokens=8, answer_tokens=10, duration_s=200, warmup_s=20, seed=3)
    report = reported(PAIR, SPLIT, workload)
    assert report.tokens_per_s == pytest.approx(20, rel=0.15)


def test_a_slower_device_slows_the_stream() -> None:
    record = run(PAIR, SPLIT, DECODE_ONLY, FleetEvent(40, "b", speed=0.5))
    expected = predict(PAIR, SPLIT)
    slower = expected.decode_s + expected.stages[1].decode_s
    assert record.token_gap_s[0] == pytest.approx(expected.decode_s)
    assert record.token_gap_s[-1] == pytest.approx(slower)
    assert [line.text for line in record.diary] == ["b runs at 0.5 of its speed"]


def test_a_lost_node_is_planned_around_and_the_answer_goes_on() -> None:
    problem = fleet(device("a", 1.0, 900), device("b", 2.0, 900), device("spare", 5.0, 900))
    workload = Workload(prompt_tokens=64, answer_tokens=10**6, duration_s=60, reload_s=3.0)
    stages = quick_replan(problem)
    assert stages is not None
    lost = next(stage.node for stage in stages if stage.node != "a")
    record = run(problem, stages, workload, FleetEvent(5, lost, alive=False))
    assert [line.text for line in record.diary] == [f"{lost} leaves", "pipeline 0 goes on over 2 nodes"]
    gap = max(record.token_gap_s)
    assert 3.0 < gap < 6.0  # loading, and a replay of prompt and tokens so far
    assert record.token_times_s[-1] > 59
    assert record.finished == 0


def test_a_fleet_that_cannot_hold_the_model_waits_for_the_node_to_come_back() -> None:
    record = run(
        PAIR,
        SPLIT,
        Workload(streams=2, prompt_tokens=16, answer_tokens=50, duration_s=60),
        FleetEvent(20, "b", alive=False),
        FleetEvent(40, "b", alive=True),
    )
    quiet = [time_s for time_s in record.token_times_s if 21 < time_s < 41]
    assert quiet == []
    assert record.token_times_s[-1] > 59
    assert "pipeline 0 is down: what is left can't hold the model" in [line.text for line in record.diary]


def test_a_node_lost_while_its_plan_loads_is_planned_around_too() -> None:
    problem = fleet(*(device(name, 1.0, 900) for name in "abcd"))
    stages = (Stage("a", 0, 6), Stage("b", 6, 12))
    events = [FleetEvent(10, "b", alive=False), FleetEvent(11, "a", alive=False)]
    record = run(problem, stages, Workload(duration_s=30, reload_s=2.0), *events)
    assert record.token_times_s[-1] > 29
    assert "pipeline 0 goes on over 2 nodes" in record.diary[-1].text


class MovesOnce:
    """A balancer that asks for one move, as soon as it sees the slow node."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self.stages = stages
        self.seen: list[Observation] = []

    def decide(self, observation: Observation) -> Move | None:
        self.seen.append(observation)
        node = next(node for node in observation.nodes if node.node == "b")
        slow = node.token_s is not None and node.token_s > 0.02
        return Move(self.stages, pause_s=0.25) if slow and observation.stages != self.stages else None


def test_a_balancer_sees_the_nodes_and_moves_the_pipeline() -> None:
    lighter = (Stage("a", 0, 9), Stage("b", 9, 12))
    balancer = MovesOnce(lighter)
    problem = replace(PAIR, devices=tuple(replace(one, memory_bytes=10**10) for one in PAIR.devices))
    workload = replace(DECODE_ONLY, streams=2, warmup_s=0)
    events = [FleetEvent(20, "b", speed=0.5)]
    record = Simulation([problem], [SPLIT], workload, events, balancer=balancer).run()
    assert balancer.seen[0].stages == SPLIT
    assert balancer.seen[-1].stages == lighter
    assert [line.text for line in record.diary][1] == "pipeline 0 moves, held for 0.25 s"

    def rate(start_s: float, stop_s: float) -> float:
        return sum(start_s <= time_s < stop_s for time_s in record.token_times_s) / (stop_s - start_s)

    still = run(problem, SPLIT, workload, *events)
    unmoved = sum(30 <= time_s < 60 for time_s in still.token_times_s) / 30
    assert rate(30, 60) > 1.2 * unmoved


def test_requests_are_spread_over_pipelines() -> None:
    problems = [fleet(device(name, 1.0, 2000)) for name in ("a", "b")]
    plans = [(Stage(name, 0, 12),) for name in ("a", "b")]
    workload = replace(DECODE_ONLY, streams=4)
    report = summarise(Simulation(problems, plans, workload).run(), workload, 2, 0.0)
    assert {node.node for node in report.nodes} == {"a", "b"}
    assert all(node.busy_share > 0.99 for node in report.nodes)


def test_the_report_says_what_happened() -> None:
    workload = Workload(streams=2, prompt_tokens=16, answer_tokens=20, duration_s=30)
    report = reported(PAIR, SPLIT, workload, FleetEvent(10, "a", speed=0.5))
    text = report_text(report)
    for part in ("simulated 30 s on 2 nodes in 1 pipeline:", "first token: median", "a runs at 0.5", "busiest"):
        assert part in text
    assert sum(report.timeline) * 30 / len(report.timeline) == pytest.approx(report.tokens)
    assert report.as_dict()["tokens"] == report.tokens
    nothing = summarise(Record(), workload, 1, 0.0)
    assert nothing.tokens_per_s == 0
    assert "busiest" not in report_text(nothing)
