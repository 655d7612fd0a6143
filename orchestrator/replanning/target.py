"""The target of a pipeline's plans (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.model.served import ServedModel
from schemas.messages import PlanConstraints


@dataclass
class PlanTarget:
    """The model that a pipeline's plans are to serve, and the constraints that they respect, from the next one on."""

    model: ServedModel | None = None
    constraints: PlanConstraints = field(default_factory=PlanConstraints)
    planned: PlanConstraints | None = None
    """The constraints that the planner was last asked with; None before it was asked."""

    @property
    def has_other_constraints(self) -> bool:
        """Have the constraints changed since the planner was last asked?"""
        return self.planned not in (None, self.constraints)
