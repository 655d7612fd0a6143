"""The report on a pipeline's planning (pure)."""

from __future__ import annotations

from orchestrator.balancing.acceptance import Acceptance, AcceptanceDecision
from orchestrator.balancing.decision_log import Decision, DecisionLog, Verdict
from orchestrator.deployment.plan import DeployedPlan, NoPlan, ReplanDone, Solving
from orchestrator.effects import Effect, Note
from orchestrator.planning.problem import Problem
from orchestrator.text.figures import megabytes


class PlanningReport:
    """Why there is no plan, or no better one, for those who ask; and the outcomes of attempts, for those who wait."""

    def __init__(self, pipeline: str) -> None:
        self.why_none = NoPlan("not_ready", "the orchestrator has only just started: ask again")
        self.last_failure = ""
        self.why_it_stays = ""
        """Why the last attempt to replace the plan in force came to nothing; empty when none was made or it worked."""
        self.decisions = DecisionLog()
        """Which solutions replaced the plan in force, which did not, and why."""
        self._told_that_it_stays = ""
        self._pipeline = pipeline
        self._outcomes: list[ReplanDone] = []
        self._smaller_caches: tuple[int, int] | None = None
        """Context and slots that were last planned with because what is usual did not fit."""
        self._left_out_draft = ""
        """The draft model that there was no room for."""

    def take_outcomes(self) -> list[ReplanDone]:
        """Take the outcomes of attempts since this was last asked."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def begins(self) -> None:
        """Forget why the plan in force stays, as another attempt is made, or one has worked."""
        self.why_it_stays = ""

    def replaced(self) -> None:
        """Another plan is in force; what kept one before it from working is over."""
        self.begins()
        self.last_failure = ""
        self.succeeded(changed=True)

    def no_model(self, reason: str) -> None:
        """There is no plan because there is nothing to serve."""
        self.why_none = NoPlan("no_model", reason)

    def succeeded(self, *, changed: bool) -> None:
        """Note that an attempt ended with a plan, perhaps the one in force."""
        self._outcomes.append(ReplanDone(ok=True, changed=changed))

    def failed(self, reason: str) -> None:
        """An attempt has come to nothing."""
        self._outcomes.append(ReplanDone(ok=False, changed=False, reason=reason))

    def decided(self, decision: AcceptanceDecision, now_s: float) -> None:
        """Record whether a solution that was found is to replace the plan in force."""
        if not decision.recorded:
            verdict = Verdict.MOVE if decision.answer is Acceptance.NOW else Verdict.STAY
            self.decisions.add(Decision(verdict=verdict, reason=decision.reason), now_s)
        if decision.answer is not Acceptance.NOW:
            self.succeeded(changed=False)

    def asks_for_less(self, solving: Solving, problem: Problem, why: str) -> list[Effect]:
        """Tell, once, what is given up because there is no plan with it: a draft model, caches of the usual size."""
        told: list[Effect] = []
        asked, draft = solving.problem, solving.model.draft
        if draft and asked.draft_bytes and not problem.draft_bytes:
            told += self._serves_without(draft.name, solving.before or asked)
        if problem.slots < asked.slots or problem.context_tokens < asked.context_tokens:
            told += self._has_smaller_caches(asked, problem, why)
        return told

    def _serves_without(self, draft: str, asked: Problem) -> list[Effect]:
        needed = megabytes(asked.draft_bytes)
        texts = f"{asked.slots} requests of {asked.context_tokens} tokens"
        is_chosen = asked.least_slots is None or asked.least_context_tokens is None
        fewer = ", serve fewer or shorter requests" if is_chosen else ""
        return self._leaves_out(
            draft,
            f"serving without the draft model {draft}: it needs {needed} beside the head for {texts}, and there is no"
            f" plan with that; take a smaller one{fewer}, or give nodes more memory",
        )

    def begins_with(self, plan: DeployedPlan) -> list[Effect]:
        """Tell, once, that a plan has no use for the draft model that was asked for."""
        draft = plan.model.draft
        if draft is None or plan.draft or len(plan.nodes) > 1:
            return []
        where = f"{plan.nodes[0]} has the whole model, where guesses save nothing"
        return self._leaves_out(draft.name, f"{where}: the draft model {draft.name} is not used")

    def _leaves_out(self, draft: str, text: str) -> list[Effect]:
        told, self._left_out_draft = self._left_out_draft == draft, draft
        return [] if told else [Note(text, warning=True, kind="no_draft", pipeline=self._pipeline)]

    def _has_smaller_caches(self, asked: Problem, problem: Problem, why: str) -> list[Effect]:
        caches = (problem.context_tokens, problem.slots)
        told, self._smaller_caches = self._smaller_caches == caches, caches
        serving = f"serving {problem.slots} at once with {problem.context_tokens} tokens of context"
        text = f"{serving} instead of {asked.slots} with {asked.context_tokens}: that {why}"
        return [] if told else [Note(text, kind="smaller", pipeline=self._pipeline)]

    def stays(self, plan: DeployedPlan, reason: str) -> list[Effect]:
        """Tell that a plan stays in force, because nothing came of the attempt to replace it; not twice in a row."""
        self.why_it_stays = reason
        text = f"epoch {plan.epoch} stays: {reason}"
        told, self._told_that_it_stays = self._told_that_it_stays == text, text
        return [] if told else [Note(text, kind="stays", pipeline=self._pipeline)]

    def there_is_none(self, why: NoPlan) -> list[Effect]:
        """Tell, once, that no plan is in force, and none can be made for now."""
        if why == self.why_none:
            return []
        self.why_none = why
        return [Note(f"no plan: {why.reason}", warning=True, kind="no_plan", pipeline=self._pipeline)]
