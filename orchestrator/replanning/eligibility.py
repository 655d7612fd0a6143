"""Eligibility: which nodes may be given layers, and which should give theirs up (pure)."""

from __future__ import annotations

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note
from orchestrator.fleet.fleet_view import FleetView
from orchestrator.fleet.profiles import cant_run
from orchestrator.replanning.constraints import refusal
from orchestrator.replanning.exclusions import AT_WORK, Exclusions, FailureCode
from schemas.messages import NodeBirth, NodeProfile, PlanConstraints


class Eligibility:
    """Knows who may have layers, by the state of nodes, what an operator wants and who failed to load a segment."""

    def __init__(self, fleet: FleetView, *, exclude_s: float) -> None:
        """``exclude_s``: how long a node is left out that failed."""
        self._fleet = fleet
        self._exclusions = Exclusions(base_s=exclude_s)
        self._model = ""
        self._refused: set[str] = set()
        """Nodes that break the operator's rules about batteries."""

    def births(self, *, last_resort: bool = False) -> tuple[NodeBirth, ...]:
        """Births of nodes that a new plan may use; as a ``last_resort`` with those that had better have no layers."""
        fit = tuple(birth for birth in self._fleet.plannable() if not self.excludes(birth))
        return (*fit, *self.weak()) if last_resort else fit

    def weak(self) -> tuple[NodeBirth, ...]:
        """Nodes that had better have no layers, but are better than no plan."""
        return tuple(birth for birth in self._fleet.usable() if self._is_weak(birth))

    def _is_weak(self, birth: NodeBirth) -> bool:
        """Is a node's state the only reason to spare it, or a failure that may be the model's?"""
        if self.excludes(birth) and not self._exclusions.may_be_models_fault(birth.node):
            return False
        return self._fleet.is_weak(birth.node) or (self.excludes(birth) and not self._fleet.why_drained(birth.node))

    def excludes(self, birth: NodeBirth) -> bool:
        """Is this start of a node left out, because it failed?"""
        return self._exclusions.excludes(birth.node, birth.incarnation)

    def failed(self, plan: DeployedPlan, node: str, reason: str, code: FailureCode, now_s: float) -> list[Effect]:
        """Leave a node out that could not hold its part of a plan. One that went away is left out, when it comes back,
        if its starts do so one after the other; not one that said that it would. One that rests has done no wrong."""
        incarnation = plan.incarnations[node]
        if not self._fleet.is_usable(node, incarnation):
            return self._vanished(plan, node, now_s)
        if self._fleet.nodes[node].resting:
            return []
        self._exclusions.add(node, incarnation, reason, code, now_s)
        is_news = code in AT_WORK or self._exclusions.stays_out(node, incarnation)
        return self._told(plan, node) if is_news else []

    def _vanished(self, plan: DeployedPlan, node: str, now_s: float) -> list[Effect]:
        known, incarnation = self._fleet.nodes[node], plan.incarnations[node]
        if known.birth.incarnation == incarnation and (known.leaving or known.refused):
            return []
        self._exclusions.vanished(node, incarnation, now_s)
        return self._told(plan, node) if self._exclusions.is_left_out(node) else []

    def _told(self, plan: DeployedPlan, node: str) -> list[Effect]:
        text = f"node {node} is set apart: {self._exclusions.reason(node)}"
        return [Note(text, warning=True, kind="set_apart", node=node, pipeline=plan.pipeline)]

    def measured(self, answer: NodeProfile, now_s: float) -> None:
        """Leave a node out that found out, when it measured itself, that it can't run the model."""
        if cant_run(answer):
            self._exclusions.add(answer.node, answer.incarnation, answer.failure, answer.code, now_s)

    def worked(self, plan: DeployedPlan) -> None:
        """Count the failures of a plan's nodes anew: each has come to hold its part."""
        self._exclusions.worked(plan.incarnations)

    def forgive(self, node: str) -> bool:
        """Forget a node's failures, as an operator wishes; true when it was left out for one."""
        return self._exclusions.forgive(node)

    def use_model(self, name: str) -> None:
        """Note which model plans are to serve: with another one nodes have another chance."""
        if self._model not in ("", name):
            self._exclusions.forget_unusable()
        self._model = name

    def why_rests(self, node: str) -> str:
        """Why a node wants no layers for now; empty when it does."""
        known = self._fleet.nodes.get(node)
        return known.resting if known else ""

    def must_go(self, node: str, constraints: PlanConstraints) -> bool:
        """Should this node have no layers, though it is here?"""
        return bool(self._fleet.why_drained(node)) or self._breaks_rules(node, constraints)

    def _breaks_rules(self, node: str, constraints: PlanConstraints) -> bool:
        known = self._fleet.nodes.get(node)
        return known is not None and refusal(constraints, node, known.health.condition) is not None

    def rules_changed(self, node: str, constraints: PlanConstraints) -> bool:
        """Has a node come to break the operator's rules, or to respect them again, since this was last asked?"""
        if self._breaks_rules(node, constraints) is (node in self._refused):
            return False
        self._refused ^= {node}
        return True

    def failures(self) -> dict[str, str]:
        """The failures for which nodes that are here are left out, by node."""
        return {
            birth.node: self._exclusions.reason(birth.node) for birth in self._fleet.usable() if self.excludes(birth)
        }

    def left_out(self) -> str:
        """The nodes that may not be used though they are here, and why, in one line; empty when there are none."""
        drained = {birth.node: self._fleet.why_drained(birth.node) for birth in self._fleet.usable()}
        reasons = (*self.failures().items(), *drained.items())
        return "; ".join(f"{node}: {reason}" for node, reason in reasons if reason)

    def why_no_plan(self, reason: str) -> str:
        """A reason why there is no plan, with the nodes that may not be used."""
        left_out = self.left_out()
        if self.failures():  # to be mended first: what is missing without them is no advice
            return f"left out: {left_out}. Without: {reason}"
        return f"{reason} (left out: {left_out})" if left_out else reason

    def expire(self, now_s: float) -> bool:
        """End exclusions that are over; true when a node may be planned with again."""
        return self._exclusions.expire(now_s)

    def next_deadline_s(self) -> float:
        """When ``expire`` next has something to do."""
        return self._exclusions.next_deadline_s()
