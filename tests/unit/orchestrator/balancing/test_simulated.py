"""The balancer in the simulation: more tokens after a device has become slow, and it goes on when a node leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.balancing.simulated import SimulatedBalancer
from orchestrator.planning.problem import Objective
from orchestrator.planning.simulation.play import quick_replan
from orchestrator.planning.simulation.scenario import FleetEvent, Record, Workload
from orchestrator.planning.simulation.simulate import Simulation
from tests.support.fleets import device, fleet

PROBLEM = replace(
    fleet(device("a", 2.0, 900), device("b", 2.0, 900), device("c", 2.0, 900)), objective=Objective.THROUGHPUT
)
WORKLOAD = Workload(streams=6, prompt_tokens=16, answer_tokens=200, duration_s=60, jitter=0.1, seed=3)


def play(events: Sequence[FleetEvent], *, balance: bool) -> tuple[Record, SimulatedBalancer]:
    balancer = SimulatedBalancer([PROBLEM], noise=0.1, seed=1)
    stages = quick_replan(PROBLEM)
    assert stages
    simulation = Simulation(
        [PROBLEM], [stages], WORKLOAD, events, replan=quick_replan, balancer=balancer if balance else None
    )
    return simulation.run(), balancer


def tokens(record: Record, begin_s: float) -> int:
    return sum(at_s > begin_s for at_s in record.token_times_s)


def test_layers_leave_a_device_that_becomes_slow() -> None:
    events = [FleetEvent(20, "b", speed=0.3)]
    (balanced, balancer), (still, _) = play(events, balance=True), play(events, balance=False)
    assert tokens(balanced, 30) > 1.3 * tokens(still, 30)
    assert len(balancer.pipelines[0].moves_s) in (1, 2)
    assert [entry["verdict"] for entry in balancer.pipelines[0].balancer.why()].count("move") in (1, 2)


def test_the_same_run_again_decides_the_same() -> None:
    events = [FleetEvent(20, "b", speed=0.3)]
    one, other = play(events, balance=True), play(events, balance=True)
    assert one[0] == other[0]
    assert one[1].pipelines[0].balancer.why() == other[1].pipelines[0].balancer.why()


def test_a_node_that_leaves_is_planned_around_and_the_balancer_goes_on() -> None:
    record, balancer = play([FleetEvent(20, "b", speed=0.3), FleetEvent(24, "c", alive=False)], balance=True)
    assert record.token_times_s[-1] > 59
    assert "pipeline 0 goes on over 2 nodes" in [line.text for line in record.diary]
    assert balancer.pipelines[0].balancer.why()[-1]["last_s"] > 50
