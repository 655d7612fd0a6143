"""The balancer in a simulation: heartbeats with noise, the planner at once, moves that take their time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from orchestrator.balancing.balancer import Balancer, BalanceSettings, Proposal, with_slowness
from orchestrator.balancing.decision_log import Verdict
from orchestrator.balancing.speed_estimate import Reading
from orchestrator.planning.moves.move_cost import MoveCost, move_cost
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.simulation.scenario import Move, NodeObservation, Observation
from orchestrator.planning.solution import Solution, Standby
from orchestrator.planning.solver.solve import solve
from orchestrator.planning.stage_cost import StageCost, stage_costs

NOISE = 0.05


@dataclass
class _Watched:
    """One pipeline. ``costs`` are what its stages take at the speed that the devices measured."""

    balancer: Balancer
    stages: tuple[Stage, ...] = ()
    costs: tuple[StageCost, ...] = ()
    stored: set[Standby] = field(default_factory=set)
    """What nodes have on disk besides their stages: standby units, and what they held before."""
    move: Move | None = None
    """On its way."""
    ready_s: float = 0.0
    has_moved: bool = False
    """It is being switched to."""
    asked_tokens: int = 0
    moves_s: list[float] = field(default_factory=list)


class SimulatedBalancer:
    """Watches all pipelines of a simulation; `Simulation` calls it as its balancer.

    Every figure of a heartbeat is off by a factor whose logarithm has the standard deviation ``noise``.
    """

    def __init__(
        self,
        problems: list[Problem],
        *,
        settings: BalanceSettings | None = None,
        noise: float = NOISE,
        seed: int = 0,
        standby: tuple[Standby, ...] = (),
    ) -> None:
        self._problems = problems
        self._noise = noise
        self._draw = random.Random(seed)
        self.pipelines = [_Watched(Balancer(settings), stored=set(standby)) for _ in problems]

    def decide(self, seen: Observation) -> Move | None:
        """Look at one pipeline once; returns a move when it has been prepared and copied."""
        watched, problem, now_s = self.pipelines[seen.pipeline], self._problems[seen.pipeline], seen.time_s
        if seen.stages != watched.stages:
            self._follow(watched, problem, seen)
        if seen.asked_tokens > watched.asked_tokens:
            watched.balancer.asked(seen.asked_tokens - watched.asked_tokens, now_s)
            watched.asked_tokens = seen.asked_tokens
        alive = {node.node for node in seen.nodes if node.alive}
        if watched.move is not None:
            if not all(stage.node in alive for stage in watched.move.stages):
                watched.move = None
                watched.balancer.failed(now_s)
            elif now_s >= watched.ready_s:
                move, watched.move = watched.move, None
                watched.moves_s.append(now_s)
                watched.has_moved = True
                return move
            return None
        for node in seen.nodes:
            reading = self._reading(watched, node) if node.alive else None
            if reading is not None:
                watched.balancer.observe(node.node, reading, now_s)
        if watched.balancer.consider(now_s).verdict is Verdict.ASK:
            self._ask(watched, problem, seen, alive)
        return None

    def _follow(self, watched: _Watched, problem: Problem, seen: Observation) -> None:
        watched.stored |= {Standby(one.node, one.start, one.stop, one.start, one.start) for one in seen.stages}
        watched.stages, watched.costs, watched.move = seen.stages, stage_costs(problem, seen.stages), None
        if watched.has_moved:
            watched.balancer.moved(seen.time_s)
        watched.has_moved = False

    def _reading(self, watched: _Watched, node: NodeObservation) -> Reading | None:
        """The reading of a node, over all its stages."""
        if not node.stages:
            return None
        observed_s = sum(stage.run_s for stage in node.stages) * self._draw.lognormvariate(0.0, self._noise)
        expected_s = sum(watched.costs[stage.stage].run_s(stage.rows) for stage in node.stages)
        return Reading(observed_s, expected_s, sum(stage.positions for stage in node.stages))

    def _ask(self, watched: _Watched, problem: Problem, seen: Observation, alive: set[str]) -> None:
        slowed = with_slowness(problem.only(alive), watched.balancer.slowness())
        slowed = replace(slowed, incumbent=seen.stages)
        answer = solve(slowed, prove=False)
        found = answer.stages if isinstance(answer, Solution) else seen.stages

        def cost(stages: tuple[Stage, ...]) -> MoveCost:
            return move_cost(slowed, seen.stages, stages, positions=seen.positions, standby=tuple(watched.stored))

        decision = watched.balancer.judge(
            Proposal(
                problem=slowed,
                running=seen.stages,
                found=found,
                requests=seen.requests,
                remaining_tokens=seen.remaining_tokens,
                cost_s=lambda stages: cost(stages).lost_s,
            ),
            seen.time_s,
        )
        if decision.verdict is Verdict.MOVE:
            price = cost(decision.stages)
            watched.move = Move(decision.stages, price.lost_s)
            watched.ready_s = seen.time_s + price.prepare_s
