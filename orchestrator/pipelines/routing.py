"""Routing: which pipeline answers which request (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.model.prompt import PromptRefused
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.planning.solver.replicas import answers_first
from orchestrator.requests.session import Session


def expected_s(pipeline: Pipeline, session: Session) -> float:
    """Seconds until a serving pipeline would have answered one request more, as its plan predicts.

    Prompt tokens cost in proportion; those that the nodes have left of an earlier turn cost nothing. Open requests
    share the bottleneck; when all slots are taken, a round of answers is awaited for each slot's worth of requests.
    """
    active = pipeline.active
    assert active
    assert session.answer
    predicted, slots = active.plan.solution.predicted, active.plan.slots
    ahead = pipeline.requests.open_count + pipeline.requests.queued_count
    prompt_tokens = session.answer.next_position - pipeline.requests.cached_tokens(session, active.plan.epoch)
    prompt_tokens += sum(len(waiting.prompt_ids) for waiting in pipeline.requests.waiting)
    prefill_s = predicted.ttft_s * prompt_tokens / max(1, predicted.prompt_tokens)
    per_token_s = predicted.stream_token_s(min(ahead + 1, slots))
    return prefill_s + (1 + ahead // slots) * session.answer.remaining_tokens * per_token_s


def best_for(session: Session, serving: Sequence[Pipeline]) -> Pipeline:
    """The pipeline that would answer a request first; the first pipeline for a prompt that none will take.

    While the prompt's length is not known: the pipeline with the fewest requests.
    """
    fewest_first = sorted(serving, key=lambda one: one.requests.open_count + one.requests.queued_count)
    if len(serving) == 1:
        return serving[0]
    for pipeline in serving:
        active = pipeline.active
        assert active
        try:
            if not session.fit(active.plan.model, active.plan.context_tokens):
                return fewest_first[0]
        except PromptRefused:
            return pipeline  # says so when it is to open it
    return fewest_first[answers_first([expected_s(pipeline, session) for pipeline in fewest_first])]


def place(request: str, pipelines: Sequence[Pipeline]) -> None:
    """Let a request that waits in one of these pipelines wait where it will be answered first."""
    serving = [pipeline for pipeline in pipelines if pipeline.is_serving]
    for pipeline in pipelines if len(pipelines) > 1 and serving else ():
        if any(waiting.request == request for waiting in pipeline.requests.waiting):
            _hand_over(request, pipeline, serving)
            break


def even_out(pipelines: Sequence[Pipeline]) -> set[str]:
    """Let requests that wait in one pipeline go on in another.

    From a pipeline that will not serve again they go to any; from one that is not ready or has no free slot, to those
    that have one.

    Returns:
        The names of the pipelines that gave or took some.
    """
    moved: set[str] = set()
    if len(pipelines) == 1 or not any(pipeline.requests.queued_count for pipeline in pipelines):
        return moved
    serving = [pipeline for pipeline in pipelines if pipeline.is_serving]
    for pipeline in pipelines if serving else ():
        if pipeline.is_serving and pipeline.free_slots > 0:
            continue
        for session in pipeline.requests.waiting:
            others = [other for other in serving if other is not pipeline]
            if not pipeline.is_given_up:
                others = [other for other in others if other.free_slots > other.requests.queued_count]
            if not others:
                break
            moved |= {pipeline.name, _hand_over(session.request, pipeline, others)}
    return moved


def _hand_over(request: str, giver: Pipeline, takers: Sequence[Pipeline]) -> str:
    session = giver.requests.give(request)
    taker = best_for(session, takers)
    taker.requests.adopt(session)
    return taker.name
