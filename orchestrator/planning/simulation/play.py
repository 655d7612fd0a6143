"""`linguabus simulate`: plan a fleet file and play it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.planning.explain.explain import explain
from orchestrator.planning.explain.render import as_text
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.simulation.fleetfile import Fleet
from orchestrator.planning.simulation.report import Report, report_text, summarise
from orchestrator.planning.simulation.scenario import Balancer
from orchestrator.planning.simulation.simulate import Simulation
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.planning.solver.replicas import Replicas, plan_replicas
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.standby.plan_standby import plan_standby
from orchestrator.text.figures import as_ms
from orchestrator.text.table import table
from schemas.contract import dump
from schemas.messages import FleetDivision, NoPlanExplanation, PipelineShare, PlanExplanation, StageRef

MakeBalancer = Callable[[list[Problem]], Balancer]


@dataclass(frozen=True)
class Played:
    """What was planned (explained) and what playing it showed; no report when there is no plan."""

    plan: PlanExplanation | NoPlanExplanation | FleetDivision
    report: Report | None

    def as_dict(self) -> dict[str, Any]:
        return {"plan": dump(self.plan), "report": None if self.report is None else self.report.as_dict()}

    def as_text(self) -> str:
        plan = replicas_text(self.plan) if isinstance(self.plan, FleetDivision) else as_text(self.plan)
        return plan if self.report is None else f"{plan}\n\n{report_text(self.report)}"


def play(fleet: Fleet, make_balancer: MakeBalancer | None = None) -> Played:
    """Plan with the same planner as for a real fleet, then simulate; the balancer is given the pipelines' problems."""
    if fleet.replicas:
        return _play_replicas(fleet, make_balancer)
    problem = fleet.problem
    answer = solve(problem)
    if isinstance(answer, Infeasible):
        return Played(explain(problem, answer), None)
    standby = plan_standby(problem, answer.stages).standby
    balancer = make_balancer([problem]) if make_balancer else None
    record = Simulation(
        [problem], [answer.stages], fleet.workload, fleet.events, replan=quick_replan, balancer=balancer
    ).run()
    expected = _expected_rate(fleet, [answer])
    return Played(explain(problem, answer, standby), summarise(record, fleet.workload, 1, expected))


def _play_replicas(fleet: Fleet, make_balancer: MakeBalancer | None) -> Played:
    problem = fleet.problem
    answer = plan_replicas(problem, prove=False)
    if isinstance(answer, Infeasible):
        return Played(explain(problem, answer), None)
    used = [set(pipeline.nodes) for pipeline in answer.pipelines]
    problems = [problem.only(nodes) for nodes in used]
    known = {name for nodes in used for name in nodes}
    events = [event for event in fleet.events if event.device in known]
    plans = [pipeline.stages for pipeline in answer.pipelines]
    balancer = make_balancer(problems) if make_balancer else None
    record = Simulation(problems, plans, fleet.workload, events, replan=quick_replan, balancer=balancer).run()
    expected = _expected_rate(fleet, answer.pipelines)
    return Played(division_of(answer), summarise(record, fleet.workload, len(plans), expected))


def quick_replan(problem: Problem) -> tuple[Stage, ...] | None:
    """What the planner makes of the devices that are left, without the MILP's confirmation."""
    answer = solve(problem, prove=False)
    return answer.stages if isinstance(answer, Solution) else None


def _expected_rate(fleet: Fleet, pipelines: list[Solution] | tuple[Solution, ...]) -> float:
    """Tokens per second that the predictions promise for the workload's streams, shared over the pipelines."""
    streams = fleet.workload.streams or 1
    if fleet.workload.arrivals_per_s is not None:
        asked = fleet.workload.arrivals_per_s * fleet.workload.answer_tokens
        return min(asked, sum(1 / pipeline.predicted.bottleneck_s for pipeline in pipelines))
    share = streams / len(pipelines)
    return sum(min(1 / one.predicted.bottleneck_s, share / one.predicted.decode_s) for one in pipelines)


def division_of(answer: Replicas) -> FleetDivision:
    """Several pipelines as a message."""
    return FleetDivision(
        pipelines=tuple(
            PipelineShare(
                nodes=one.nodes,
                stages=tuple(StageRef(node=stage.node, start=stage.start, stop=stage.stop) for stage in one.stages),
                decode_ms=as_ms(one.predicted.decode_s),
                tokens_per_s_many=round(one.predicted.tokens_per_s_many, 3),
            )
            for one in answer.pipelines
        ),
        unused=answer.unused,
        tokens_per_s_many=round(answer.tokens_per_s_many, 3),
        bound_tokens_per_s=round(answer.bound_tokens_per_s, 3),
        gap=round(answer.gap, 4),
    )


def replicas_text(said: FleetDivision) -> str:
    """Several pipelines for people."""
    head = (
        f"{len(said.pipelines)} pipelines, {said.tokens_per_s_many:.1f} tokens/s together, "
        f"at most {100 * said.gap:.1f} % below what the fleet could ever give"
    )
    rows = [
        [
            str(index),
            str(len(one.nodes)),
            f"{one.decode_ms:.1f}",
            f"{one.tokens_per_s_many:.1f}",
            one.nodes[0],
        ]
        for index, one in enumerate(said.pipelines)
    ]
    shown = table(["pipeline", "nodes", "ms/token", "tokens/s", "first node"], rows[:20], right=frozenset({0, 1, 2, 3}))
    more = [f"and {len(rows) - 20} more pipelines"] if len(rows) > 20 else []
    unused = [f"not used: {len(said.unused)} devices"] if said.unused else []
    return "\n".join([head, "", shown, *more, *unused])
