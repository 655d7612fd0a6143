"""The handler of operators' commands (pure).

What is there and what goes on is answered at once (`operations`); ``preview`` when the planner has answered; ``apply``,
``replan``, ``rebalance`` and ``use_model`` when it is known what came of them. Of ``apply`` the planner is asked first
whether there is a plan, and no more: a ring may stand still meanwhile, and its next plan is to respect the constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.control_plane import ControlPlane
from orchestrator.effects import Asker, CheckPlan, Effect, PreviewPlan, SaveConstraints, SaveModelChoice
from orchestrator.operator_api import operations
from orchestrator.operator_api.comparison import comparison
from orchestrator.operator_api.replies import refuse, reply
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.pool import PipelinePool
from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible, Solution
from schemas.errors import MessageError, UnexpectedType
from schemas.messages import (
    ApplyConstraints,
    ApplyReply,
    Epoch,
    NoPlanExplanation,
    NoPlanReply,
    OperatorReply,
    OperatorRequest,
    PlanComparison,
    PlanConstraints,
    PlanExplanation,
    PreviewConstraints,
    PreviewReply,
    Rebalance,
    RebalanceReply,
    Replan,
    ReplanReply,
    UseModel,
    UseModelReply,
    name_of,
)
from schemas.rates import Rate, Rates
from schemas.topics import CONTROL_SUBMIT

_PREFIX = "control."
"""Of the names of all operations."""

COMMANDS = Rate(burst=2000, per_s=500.0)
"""Of one operator; a program that asks as soon as it is answered stays below."""
MOST_PREVIEWS = 8
"""That the planner is at work on for operators; it has the fleet's own plans to make as well."""

Explanation = PlanExplanation | NoPlanExplanation


@dataclass(frozen=True)
class _Asked:
    """A preview, or constraints to be applied, that the planner is asked about."""

    asker: Asker
    constraints: PlanConstraints


@dataclass(frozen=True)
class _Rebalance:
    """A ``rebalance`` under way: pipelines are compared one after the other, so that the first failure ends it."""

    asker: Asker
    command: Rebalance
    pipelines: tuple[Pipeline, ...]
    compared: tuple[PlanComparison, ...]
    """Of the first ones."""
    problem: Problem
    """The planner's question for the next one."""
    epoch: Epoch | None
    """Its plan in force when it was asked."""


@dataclass(frozen=True)
class _Change:
    """An asker who waits for the plans on their way; ``answer`` makes the reply from whether they ``changed``."""

    asker: Asker
    answer: Callable[..., OperatorReply]


@dataclass(frozen=True)
class _Choice:
    """An asker who waits for a model to be served."""

    asker: Asker
    model: str

    def made(self) -> list[Effect]:
        """Reply that the model is served, or will be as soon as anything is."""
        return [SaveModelChoice(self.model), reply(self.asker, UseModelReply(model=self.model))]


class OperatorHandler:
    """Handles commands, and knows who waits for the end of one."""

    def __init__(self) -> None:
        self._changes: list[_Change] = []
        self._opening: _Choice | None = None
        """Waits for its model to be opened."""
        self._switching: _Choice | None = None
        """Waits for the plan that serves its model."""
        self._previews: dict[int, _Asked] = {}
        """By the planner's job."""
        self._checks: dict[int, _Asked] = {}
        """By the planner's job."""
        self._rebalances: dict[int, _Rebalance] = {}
        """By the planner's job."""
        self._last_job = 0
        self._commands = Rates(COMMANDS)

    def handle(self, asker: Asker, command: OperatorRequest, plane: ControlPlane, now_s: float) -> list[Effect]:
        """Answer, or begin what the command asks for."""
        if not self._commands.take(asker.client, now_s):
            return [
                refuse(asker, f"{asker.client} commands more than {COMMANDS.per_s:g} times a second: ask again later")
            ]
        asks_planner = isinstance(command, PreviewConstraints | ApplyConstraints | Rebalance)
        if asks_planner and len(self._previews) + len(self._checks) + len(self._rebalances) >= MOST_PREVIEWS:
            return [refuse(asker, f"the planner is asked {MOST_PREVIEWS} things already: ask again in a moment")]
        match command:
            case PreviewConstraints() | ApplyConstraints():
                return self._ask_planner(asker, command, plane.pipelines)
            case Rebalance():
                return self._rebalance(asker, command, plane)
            case Replan():
                return self._replan(asker, plane, now_s)
            case UseModel():
                return self._use_model(_Choice(asker, command.model), plane)
            case _:
                return operations.answer(asker, command, plane, now_s)

    @staticmethod
    def unreadable(asker: Asker, error: MessageError) -> list[Effect]:
        """Refuse a command that can't be read."""
        if not isinstance(error, UnexpectedType):
            return [refuse(asker, str(error))]
        known = sorted(name_of(message).removeprefix(_PREFIX) for message in CONTROL_SUBMIT.messages)
        asked = error.name.strip("'").removeprefix(_PREFIX)
        return [refuse(asker, f"there is no operation {asked}: use one of {', '.join(known)}")]

    # --- previews, and plans with other constraints -------------------------------------------------------------

    def _ask_planner(
        self, asker: Asker, command: PreviewConstraints | ApplyConstraints, pipelines: PipelinePool
    ) -> list[Effect]:
        asked = _Asked(asker, command.constraints)
        try:
            problem = pipelines.preview(asked.constraints)
        except PlanningError as error:
            return [refuse(asker, str(error))]
        self._last_job -= 1
        if isinstance(command, ApplyConstraints):
            self._checks[self._last_job] = asked
            return [CheckPlan(self._last_job, problem)]
        self._previews[self._last_job] = asked
        return [PreviewPlan(self._last_job, problem, pipelines.wanted_with(asked.constraints))]

    def previewed(self, job: int, explanation: Explanation, pipelines: PipelinePool, now_s: float) -> list[Effect]:
        """The planner has explained its answer: tell, or go on comparing."""
        if job in self._rebalances:
            return self._rebalanced(self._rebalances.pop(job), explanation, pipelines, now_s)
        asked, profiles = self._previews.pop(job), pipelines.profiles_view(now_s)
        asker, constraints = asked.asker, asked.constraints
        if isinstance(explanation, NoPlanExplanation):
            return [reply(asker, NoPlanReply(constraints=constraints, explanation=explanation, profiles=profiles))]
        return [reply(asker, PreviewReply(constraints=constraints, explanation=explanation, profiles=profiles))]

    def checked(self, job: int, outcome: Solution | Infeasible, pipelines: PipelinePool, now_s: float) -> list[Effect]:
        """Have the next plan respect constraints under which there is one, and refuse others."""
        asked = self._checks.pop(job)
        if isinstance(outcome, Infeasible) and not outcome.fits:
            return [refuse(asked.asker, f"{outcome.reason}; {outcome.smallest_fix}")]
        pipelines.use_constraints(asked.constraints)
        pipelines.force(now_s)
        self._changes.append(_Change(asked.asker, ApplyReply))
        return [SaveConstraints(asked.constraints)]

    def question_failed(self, job: int, reason: str) -> list[Effect]:
        """Refuse a command because the planner could not answer."""
        begun = self._rebalances.pop(job, None) or self._previews.pop(job, None) or self._checks.pop(job)
        return [refuse(begun.asker, reason)]

    # --- plans in force beside the best ones ----------------------------------------------------------------------

    def _rebalance(self, asker: Asker, command: Rebalance, plane: ControlPlane) -> list[Effect]:
        working = tuple(one for one in plane.pipelines.all if one.active and not one.is_resting)
        if not working:
            return [refuse(asker, plane.pipeline.report.why_none.reason)]
        return self._compare(asker, command, working, ())

    def _compare(
        self, asker: Asker, command: Rebalance, pipelines: tuple[Pipeline, ...], compared: tuple[PlanComparison, ...]
    ) -> list[Effect]:
        """Have the planner find the best plan of the next pipeline, with the nodes that it has."""
        try:
            pipeline = pipelines[len(compared)]
            problem = pipeline.preview()
            if pipeline.active:  # its KV caches may be smaller than usual
                problem = problem.with_caches(pipeline.active.plan.context_tokens, pipeline.active.plan.slots)
        except PlanningError as error:
            return [refuse(asker, str(error))]
        self._last_job -= 1
        self._rebalances[self._last_job] = _Rebalance(asker, command, pipelines, compared, problem, _epoch(pipeline))
        return [PreviewPlan(self._last_job, problem)]

    def _rebalanced(
        self, rebalance: _Rebalance, explanation: Explanation, pool: PipelinePool, now_s: float
    ) -> list[Effect]:
        """Compare the planner's answer with the plan in force; after the last pipeline, replace plans where it pays."""
        asker, pipelines, compared = rebalance.asker, rebalance.pipelines, rebalance.compared
        pipeline = pipelines[len(compared)]
        if pipeline.active is None:
            return [refuse(asker, pipeline.report.why_none.reason)]
        if _epoch(pipeline) != rebalance.epoch:  # the answer is about another plan, perhaps of another model
            return self._compare(asker, rebalance.command, pipelines, compared)
        found = comparison(rebalance.problem, pipeline.active.plan, explanation, pipeline.migration_to)
        compared = (*compared, found)
        if len(compared) < len(pipelines):
            return self._compare(asker, rebalance.command, pipelines, compared)
        moving = [one.name for one, found in zip(pipelines, compared, strict=True) if found.moves]
        if rebalance.command.dry_run or not moving:
            return [reply(asker, RebalanceReply(pipelines=compared))]
        pool.force(now_s, only=moving)
        self._changes.append(_Change(asker, partial(RebalanceReply, pipelines=compared)))
        return []

    # --- other plans and models ---------------------------------------------------------------------------------

    def _replan(self, asker: Asker, plane: ControlPlane, now_s: float) -> list[Effect]:
        if plane.pipeline.model is None:
            return [refuse(asker, plane.pipeline.report.why_none.reason)]
        self._changes.append(_Change(asker, ReplanReply))
        plane.pipelines.force(now_s)
        return []

    def _use_model(self, choice: _Choice, plane: ControlPlane) -> list[Effect]:
        reason = f"meanwhile model {choice.model} was chosen"
        refusals = [refuse(earlier.asker, reason) for earlier in (self._opening, self._switching) if earlier]
        self._opening, self._switching = choice, None
        return [*refusals, *plane.open_model(choice.model)]

    def model_opened(self, problem: str, pipeline: Pipeline) -> list[Effect]:
        """Note that a model was opened, or could not be (then ``problem`` says why)."""
        choice, self._opening = self._opening, None
        if choice is None:
            return []
        if problem:
            return [refuse(choice.asker, problem)]
        if pipeline.active is None:
            return choice.made()
        self._switching = choice
        return []

    def plan_outcomes(self, pipelines: PipelinePool) -> list[Effect]:
        """Tell those who wait for a plan what came of it."""
        last = pipelines.take_outcome()
        if last is None:
            return []
        effects: list[Effect] = []
        if self._switching:
            stays = pipelines.lead.active is not None and not last.ok
            effects += [refuse(self._switching.asker, last.reason)] if stays else self._switching.made()
        for change in self._changes:
            answer = change.answer(changed=last.changed)
            effects.append(reply(change.asker, answer) if last.ok else refuse(change.asker, last.reason))
        self._switching, self._changes = None, []
        return effects


def _epoch(pipeline: Pipeline) -> Epoch | None:
    """The epoch of the plan in force; None without one."""
    return pipeline.active.plan.epoch if pipeline.active else None
