"""The outcome of the last change of plans, over all pipelines (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from orchestrator.deployment.plan import ReplanDone
from orchestrator.pipelines.pipeline import Pipeline


class Outcomes:
    """The last outcome of each pipeline; it counts as a change if one before it was."""

    def __init__(self) -> None:
        self._of: dict[str, ReplanDone] = {}

    def __len__(self) -> int:
        return len(self._of)

    def collect(self, pipelines: Iterable[Pipeline]) -> None:
        """Collect outcomes from the pipelines; what becomes of those that rest is nobody's concern."""
        for pipeline in pipelines:
            outcomes = pipeline.report.take_outcomes()
            if outcomes and not pipeline.is_resting:
                before = self._of.get(pipeline.name)
                changed = bool(before and before.changed) or any(outcome.changed for outcome in outcomes)
                self._of[pipeline.name] = replace(outcomes[-1], changed=outcomes[-1].ok and changed)

    def take(self) -> ReplanDone:
        """Take all outcomes as one: the last failure, if there is any."""
        outcomes, self._of = list(self._of.values()), {}
        failed = [outcome for outcome in outcomes if not outcome.ok]
        return failed[-1] if failed else ReplanDone(ok=True, changed=any(outcome.changed for outcome in outcomes))
