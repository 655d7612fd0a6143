"""Epochs, the numbers of plans: each above all earlier ones, also of earlier starts (pure)."""

from __future__ import annotations

from schemas.messages import Epoch, Plan


class Epochs:
    """Hands epochs out, and knows which plans on the bus are its own."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._counter = 0
        self._published: dict[str, set[Epoch]] = {}
        """By pipeline."""

    @property
    def upcoming(self) -> Epoch:
        """The epoch that ``next`` would hand out."""
        return Epoch(generation=self.generation, counter=self._counter + 1)

    @property
    def latest(self) -> Epoch:
        """The epoch that was handed out last; counter 0 where none was."""
        return Epoch(generation=self.generation, counter=self._counter)

    def next(self) -> Epoch:
        """Hand out an epoch above all earlier ones."""
        epoch = self.upcoming
        self._counter += 1
        return epoch

    def published(self, pipeline: str, epoch: Epoch) -> None:
        """A plan of this epoch was committed."""
        self._published.setdefault(pipeline, set()).add(epoch)

    def is_own(self, plan: Plan) -> bool:
        """Did this start publish the plan?"""
        return plan.epoch in self._published.get(plan.pipeline, ())

    def is_superseded_by(self, plan: Plan) -> bool:
        """Has another orchestrator taken over? Plans of earlier starts are heard before the first own one."""
        return plan.pipeline in self._published and not self.is_own(plan) and plan.epoch.generation >= self.generation

    def go_above(self, plan: Plan) -> bool:
        """Count on from the plan of an earlier start; false once own plans are out, when it is too late for that."""
        if plan.pipeline in self._published:
            return False
        self.generation = max(self.generation, plan.epoch.generation + 1)
        return True
