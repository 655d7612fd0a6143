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
