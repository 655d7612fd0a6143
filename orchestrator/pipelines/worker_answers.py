"""What the worker has found, for the pipeline that asked (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.effects import Effect
from orchestrator.events import FleetDivided, JobFailed, PlanEvaluated, PlanSolved, SegmentsBuilt, StandbyPlanned
from orchestrator.pipelines.allocation import NodeAllocator
from orchestrator.pipelines.due import DuePipelines
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.replanning.jobs import Jobs

WorkerEvent = PlanSolved | PlanEvaluated | SegmentsBuilt | StandbyPlanned | FleetDivided | JobFailed


class WorkerAnswers:
    """Hands the worker's answers on; whoever gets one counts as touched."""

    def __init__(
        self, pipelines: Mapping[str, Pipeline], jobs: Jobs, allocator: NodeAllocator, due: DuePipelines
    ) -> None:
        self._pipelines = pipelines
        self._jobs = jobs
        self._allocator = allocator
        self._due = due

    def take(self, event: WorkerEvent, now_s: float) -> list[Effect]:
        """Take in an answer; one that nobody waits for any more changes nothing."""
        if isinstance(event, FleetDivided):
            self._due.touch(self._pipelines)
            return self._allocator.divided(event, now_s)
        name = event.pipeline if isinstance(event, StandbyPlanned) else self._jobs.owner(event.job) or ""
        asker = self._pipelines.get(name)
        if asker is None:
            if not isinstance(event, JobFailed):
                return []
            self._due.touch(self._pipelines)
            return self._allocator.failed(event.job, event.reason, now_s)
        self._due.touch((asker.name,))
        match event:
            case PlanSolved(job, outcome):
                return asker.solved(job, outcome, now_s)
            case PlanEvaluated(job, solution):
                asker.adopter.evaluated(job, solution)
            case SegmentsBuilt(job, segments):
                return asker.built(job, segments)
            case StandbyPlanned():
                return asker.standby_planned(event)
            case JobFailed(job, reason):
                return asker.job_failed(job, reason)
        return []
