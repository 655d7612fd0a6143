"""How many batches go round a ring at once, on rings worked out by hand and against every other number."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from orchestrator.planning.batches_in_flight import TIE, Cycle, batches_in_flight
from orchestrator.planning.problem import Device, Problem, Stage
from orchestrator.planning.unit_run import UnitRun
from schemas.limits import MAX_BATCHES
from tests.support.planning import every_plan, random_problem

RUNS = (UnitRun("embed", 0, 1, 1), UnitRun("block", 1, 30, 1), UnitRun("head", 31, 1, 1))
FIGURES = (0.0, 0.001, 0.0)
"""Only blocks take time: 1 ms for a row, 1.6 ms for four."""


def device(name: str, *, slowness: float = 1.0, hop_s: float = 0.0005, hop_busy_s: float = 0.0002) -> Device:
    decode_s = tuple(slowness * figure for figure in FIGURES)
    return Device(
        name, 1, decode_s, decode_s, hop_s, hop_busy_s=hop_busy_s,
        decode_batched_s=tuple(0.4 * figure for figure in decode_s),
    )  # fmt: skip


def problem_of(*devices: Device, slots: int = 8, **changes: int) -> Problem:
    return Problem(RUNS, devices, context_tokens=16, slots=slots, **changes)


def even_ring(nodes: int) -> tuple[Stage, ...]:
    cuts = [0, *(1 + 30 * index // nodes for index in range(1, nodes)), 32]
    return tuple(Stage(f"n{index}", *cut) for index, cut in enumerate(itertools.pairwise(cuts)))


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_an_even_ring_has_a_batch_for_each_node(nodes: int) -> None:
    problem = problem_of(*(device(f"n{index}") for index in range(nodes)), slots=4 * nodes)
    table = batches_in_flight(problem, even_ring(nodes))
    assert table[0] == 1
    assert [table[rows * nodes - 1] for rows in (1, 2, 3, 4)] == [nodes] * 4


def test_stages_of_one_node_count_once() -> None:
    problem = problem_of(device("a"), device("b"))
    ends = (Stage("a", 0, 9), Stage("b", 9, 24), Stage("a", 24, 32))
    assert batches_in_flight(problem, ends)[7] == 2
    assert batches_in_flight(problem, ends) == batches_in_flight(problem, (Stage("a", 0, 16), Stage("b", 16, 32)))


def test_one_slow_node_is_spared_runs() -> None:
    slow = problem_of(device("n0", slowness=8), device("n1"), device("n2"))
    assert batches_in_flight(slow, even_ring(3))[7] == 1
    assert batches_in_flight(problem_of(*(device(f"n{index}") for index in range(3))), even_ring(3))[7] == 3


def test_slow_links_are_filled() -> None:
    slow = problem_of(*(device(f"n{index}", hop_s=0.010) for index in range(3)))
    assert batches_in_flight(slow, even_ring(3))[7] > 3
    narrow = problem_of(*(replace(device(f"n{i}"), link_bytes_per_s=1e5) for i in range(3)), activation_bytes=1000)
    assert batches_in_flight(narrow, even_ring(3))[7] > 3, "a row more takes the link 10 ms"


def test_a_cycle_is_the_longer_of_one_round_and_the_busiest_nodes_work() -> None:
    problem = problem_of(device("a"), device("b", slowness=2))
    ring = Cycle(problem, (Stage("a", 0, 21), Stage("b", 21, 32)))  # 20 and 10 blocks: 20 ms each for one row
    assert ring.seconds(1, 1) == pytest.approx(2 * 0.020 + 2 * 0.0005)
    assert ring.seconds(2, 2) == pytest.approx(2 * 0.020 + 2 * 0.0005), "one is at work while the other waits"
    assert ring.seconds(3, 3) == pytest.approx(3 * 0.0202)
    assert ring.seconds(5, 2) == pytest.approx(max(2 * 0.028 + 2 * 0.0005, 0.0282 + 0.0242)), "three and two"
    assert ring.seconds(5, 1) == pytest.approx(2 * 0.036 + 2 * 0.0005), "beyond four rows the line goes on"


def test_a_larger_batch_never_takes_less_whatever_was_measured() -> None:
    lucky = replace(device("n0"), decode_batched_s=(0.0, 0.0002, 0.0))  # four in less than the time of one
    problem = problem_of(lucky, slots=32)
    assert Cycle(problem, even_ring(1)).seconds(32, 1) == pytest.approx(0.030)


def test_results_of_a_batch_fit_into_a_message() -> None:
    problem = problem_of(device("n0", slowness=8), device("n1"), activation_bytes=700_000)
    assert batches_in_flight(problem, even_ring(2))[:6] == (1, 1, 2, 2, 3, 3), "two rows of 0.7 MB"


def brute_force_s(problem: Problem, stages: tuple[Stage, ...], requests: int, batches: int) -> float:
    """The formula once more, batch by batch."""
    size = -(-requests // batches)
    sizes = [min(size, requests - first) for first in range(0, requests, size)]
    ring_s, busy_s = 0.0, dict.fromkeys((stage.node for stage in stages), 0.0)
    for index, stage in enumerate(stages):
        on = problem.device_by_name[stage.node]
        kinds = [run for unit in range(stage.start, stage.stop) for run in [problem.run_of_unit[unit]]]
        one_s = sum(on.decode_s[run] for run in kinds)
        row_s = (4 * sum(on.batched_s[run] for run in kinds) - one_s) / 3
        run_s = {rows: max(one_s, one_s + (rows - 1) * row_s) for rows in sizes}
        leaves = stages[(index + 1) % len(stages)].node != stage.node
        link_s = (size - 1) * problem.activation_bytes / on.link_bytes_per_s if index + 1 < len(stages) else 0.0
        ring_s += run_s[size] + (on.hop_s + link_s if leaves else 0.0)
        busy_s[stage.node] += sum(run_s[rows] + (on.hop_busy_s if leaves else 0.0) for rows in sizes)
    return max(ring_s, *busy_s.values())


@pytest.mark.parametrize("seed", range(60))
def test_no_other_number_of_batches_has_a_shorter_cycle(seed: int) -> None:
    draw = random.Random(seed)
    problem = replace(random_problem(seed), slots=draw.randint(1, 20))
    stages = draw.choice(list(every_plan(problem)))
    table = batches_in_flight(problem, stages)
    assert len(table) == problem.slots
    for requests, chosen in enumerate(table, start=1):
        cycles_s = {count: brute_force_s(problem, stages, requests, count) for count in range(1, requests + 1)}
        assert chosen in cycles_s
        assert Cycle(problem, stages).seconds(requests, chosen) == pytest.approx(cycles_s[chosen])
        assert cycles_s[chosen] <= min(cycles_s.values()) * (1 + TIE) * (1 + 1e-9)
        fewer = [cycles_s[count] for count in range(1, chosen)]
        assert all(cycle_s > min(cycles_s.values()) * (1 + TIE) * (1 - 1e-9) for cycle_s in fewer)


def test_there_are_never_more_batches_than_nodes_take() -> None:
    far = replace(device("n1", hop_s=0.96, hop_busy_s=0.0), decode_batched_s=None)
    near = replace(device("n0", hop_s=0.0, hop_busy_s=0.0), decode_batched_s=None)
    table = batches_in_flight(problem_of(near, far, slots=66), even_ring(2))
    assert table[63] == MAX_BATCHES, "each request alone"
    assert table[65] == 33, "66 are too many: they go in pairs"
