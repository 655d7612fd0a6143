"""What an operator may ask of a running orchestrator (pure).

``nodes``, ``plan``, ``history`` and ``status`` answer at once; ``preview`` when the planner has; ``apply``, ``replan``
and ``use_model`` when it is known what came of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator.control_plane import ControlPlane
from orchestrator.effects import Effect, PreviewPlan, SaveConstraints, SaveModelChoice, TellHistory
from orchestrator.operator_api import operations
from orchestrator.operator_api.comparison import comparison
from orchestrator.operator_api.replies import refuse as _refuse
from orchestrator.operator_api.replies import reply as _reply
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.pool import PipelinePool
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem
from orchestrator.replanning.constraints import PlanConstraints, constraints_from
from schemas.messages import ControlRequest

OPERATIONS = tuple(
    sorted(
        (
            "apply",
            "history",
            "nodes",
            "plan",
            "preview",
            "rebalance",
            "replan",
            "status",
            "use_model",
            *operations.OPERATIONS,
        )
    )
)
HISTORY = 20
_MOST_HISTORY = 200


@dataclass(frozen=True)
class _Rebalance:
    """Under way: pipelines are compared one after the other, so that the first failure ends it."""

    command: ControlRequest
    pipelines: tuple[Pipeline, ...]
    compared: tuple[dict[str, Any], ...]
    """Of the first ones."""
    problem: Problem
    """The planner's question for the next one."""


class OperatorHandler:
    """Commands, and who waits for the end of one."""

    def __init__(self) -> None:
        self._replans: list[ControlRequest] = []
        self._opening: ControlRequest | None = None
        """Waits for its model to be opened."""
        self._switching: ControlRequest | None = None
        """Waits for the plan that serves its model."""
        self._previews: dict[int, tuple[ControlRequest, PlanConstraints]] = {}
        """By the planner's job; those that are to be applied too."""
        self._rebalances: dict[int, _Rebalance] = {}
        """By the planner's job."""
        self._compared: dict[str, dict[str, Any]] = {}
        """By request: said once the plan is in force."""
        self._previewed = 0

    def handle(self, command: ControlRequest, plane: ControlPlane, now_s: float) -> list[Effect]:
        """Answer, or begin what the command asks for."""
        match command.operation:
            case "nodes":
                return [_reply(command, {"nodes": plane.fleet.view(now_s)})]
            case "plan":
                return [self._plan(command, plane)]
            case "status":
                return [_reply(command, plane.status())]
            case "preview" | "apply":
                return self._preview(command, plane.pipelines)
            case "rebalance":
                return self._rebalance(command, plane)
            case "history":
                return [self._history(command)]
            case "replan":
                return self._replan(command, plane, now_s)
            case "use_model":
                return self._use_model(command, plane)
            case operation if operation in operations.OPERATIONS:
                return operations.handle(command, plane, now_s)
        known = ", ".join(OPERATIONS)
        return [_refuse(command, f"there is no operation {command.operation}: use one of {known}")]

    @staticmethod
    def _plan(command: ControlRequest, plane: ControlPlane) -> Effect:
        """The plan in force and what goes on beside it; those of all pipelines."""
        lead = plane.pipeline
        if lead.active is None:
            what = f"{lead.state()}, no plan yet" if lead.is_planning else lead.report.why_none.reason
            return _refuse(command, what)
        views = [pipeline.plan_view() for pipeline in plane.pipelines.all if pipeline.active]
        return _reply(command, {**views[0], "pipelines": views})

    def _preview(self, command: ControlRequest, pipelines: PipelinePool) -> list[Effect]:
        try:
            constraints = constraints_from(command.arguments)
            problem = pipelines.preview(constraints)
        except PlanningError as error:
            return [_refuse(command, str(error))]
        self._previewed -= 1
        self._previews[self._previewed] = (command, constraints)
        return [PreviewPlan(self._previewed, problem, pipelines.wanted_with(constraints))]

    def previewed(self, job: int, explanation: dict[str, Any], pipelines: PipelinePool, now_s: float) -> list[Effect]:
        """The planner has answered: tell, or let the plan be made that respects the constraints."""
        if job in self._rebalances:
            return self._rebalanced(self._rebalances.pop(job), explanation, pipelines, now_s)
        command, constraints = self._previews.pop(job)
        if command.operation == "preview":
            profiles = pipelines.profiles_view(now_s)
            said = {"wishes": constraints.as_arguments(), "explanation": explanation, "profiles": profiles}
            return [_reply(command, said)]
        if not explanation["feasible"]:
            return [_refuse(command, f"{explanation['reason']}; {explanation['smallest_fix']}")]
        pipelines.use_constraints(constraints)
        pipelines.force(now_s)
        self._replans.append(command)
        return [SaveConstraints(constraints.as_arguments())]

    def preview_failed(self, job: int, reason: str) -> list[Effect]:
        """The planner could not answer."""
        command = self._rebalances.pop(job).command if job in self._rebalances else self._previews.pop(job)[0]
        return [_refuse(command, reason)]

    def _rebalance(self, command: ControlRequest, plane: ControlPlane) -> list[Effect]:
        if not isinstance(command.arguments.get("dry_run", False), bool):
            return [_refuse(command, "dry_run: use true or false")]
        working = tuple(one for one in plane.pipelines.all if one.active and not one.is_resting)
        if not working:
            return [_refuse(command, plane.pipeline.report.why_none.reason)]
        return self._compare(command, working, ())

    def _compare(
        self, command: ControlRequest, pipelines: tuple[Pipeline, ...], compared: tuple[dict[str, Any], ...]
    ) -> list[Effect]:
        """Have the planner find the best plan of the next pipeline, with the nodes that it has."""
        try:
            pipeline = pipelines[len(compared)]
            problem = pipeline.preview()
            if pipeline.active:  # its KV caches may be smaller than usual
                problem = problem.with_caches(pipeline.active.plan.context_tokens, pipeline.active.plan.slots)
        except PlanningError as error:
            return [_refuse(command, str(error))]
        self._previewed -= 1
        self._rebalances[self._previewed] = _Rebalance(command, pipelines, compared, problem)
        return [PreviewPlan(self._previewed, problem)]

    def _rebalanced(
        self, rebalance: _Rebalance, explanation: dict[str, Any], pool: PipelinePool, now_s: float
    ) -> list[Effect]:
        """Compare with the plan in force; when all are compared, replace those where it pays and is wanted."""
        command, pipelines, compared = rebalance.command, rebalance.pipelines, rebalance.compared
        pipeline = pipelines[len(compared)]
        if pipeline.active is None:
            return [_refuse(command, pipeline.report.why_none.reason)]
        found = comparison(rebalance.problem, pipeline.active.plan, explanation, pipeline.migration_to)
        compared = (*compared, found)
        if len(compared) < len(pipelines):
            return self._compare(command, pipelines, compared)
        said = {"pipelines": list(compared)}
        moving = [one.name for one, found in zip(pipelines, compared, strict=True) if found["moves"]]
        if command.arguments.get("dry_run", False) or not moving:
            return [_reply(command, said)]
        pool.force(now_s, only=moving)
        self._replans.append(command)
        self._compared[command.request] = said
        return []

    @staticmethod
    def _history(command: ControlRequest) -> Effect:
        limit = command.arguments.get("limit", HISTORY)
        if not isinstance(limit, int) or not 1 <= limit <= _MOST_HISTORY:
            return _refuse(command, f"limit: use a number from 1 to {_MOST_HISTORY}")
        return TellHistory(command, limit)

    def _replan(self, command: ControlRequest, plane: ControlPlane, now_s: float) -> list[Effect]:
        if plane.pipeline.model is None:
            return [_refuse(command, plane.pipeline.report.why_none.reason)]
        self._replans.append(command)
        plane.pipelines.force(now_s)
        return []

    def _use_model(self, command: ControlRequest, plane: ControlPlane) -> list[Effect]:
        name = command.arguments.get("model")
        if not isinstance(name, str) or not name:
            return [_refuse(command, "use_model needs the argument model: a model's name")]
        refusals = [
            _refuse(earlier, f"meanwhile model {name} was chosen")
            for earlier in (self._opening, self._switching)
            if earlier
        ]
        self._opening, self._switching = command, None
        return [*refusals, *plane.open_model(name)]

    def model_opened(self, problem: str, pipeline: Pipeline) -> list[Effect]:
        """A model was opened, or could not be (then ``problem`` says why)."""
        command, self._opening = self._opening, None
        if command is None:
            return []
        if problem:
            return [_refuse(command, problem)]
        if pipeline.active is None:
            return _chosen(command)
        self._switching = command
        return []

    def plan_outcomes(self, pipelines: PipelinePool) -> list[Effect]:
        """Tell those who wait for a plan what came of it."""
        last = pipelines.take_outcome()
        if last is None:
            return []
        effects: list[Effect] = []
        if self._switching:
            stays = pipelines.lead.active is not None and not last.ok
            effects += [_refuse(self._switching, last.reason)] if stays else _chosen(self._switching)
        for command in self._replans:
            said = {**self._compared.pop(command.request, {}), "changed": last.changed}
            effects.append(_reply(command, said) if last.ok else _refuse(command, last.reason))
        self._switching, self._replans = None, []
        return effects


def _chosen(command: ControlRequest) -> list[Effect]:
    name = command.arguments["model"]
    return [SaveModelChoice(name), _reply(command, {"model": name})]
