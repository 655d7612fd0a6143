"""What plans are for (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.model.served import ServedModel
from schemas.messages import PlanConstraints


@dataclass
class PlanTarget:
    """What a pipeline's plans are to serve, and to respect, from the next one on."""

    model: ServedModel | None = None
    constraints: PlanConstraints = field(default_factory=PlanConstraints)
