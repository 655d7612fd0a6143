"""What holds of the whole core after every event."""

from __future__ import annotations

from orchestrator.core import Core
from orchestrator.effects import Effect
from orchestrator.events import Tick
from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.requests.session import Phase


def check_core(core: Core, now_s: float) -> None:
    """Fail where the core contradicts itself, or has left something undone that could be done now."""
    pipelines = core.plane.pipelines.all
    _no_node_in_two_pipelines(pipelines)
    _no_request_in_two_pipelines(pipelines)
    for pipeline in pipelines:
        _requests_fit_the_plan(pipeline)
        _the_successor_is_younger(pipeline)
    _nothing_is_left_undone(core, now_s)


def _no_node_in_two_pipelines(pipelines: tuple[Pipeline, ...]) -> None:
    used: dict[str, str] = {}
    for pipeline in pipelines:
        for node in pipeline.nodes_in_use():
            assert used.setdefault(node, pipeline.name) == pipeline.name, f"{node} works for two pipelines"


def _no_request_in_two_pipelines(pipelines: tuple[Pipeline, ...]) -> None:
    requests = [session.request for pipeline in pipelines for session in pipeline.requests.sessions]
    assert len(requests) == len(set(requests)), "a request waits for two answers"


def _requests_fit_the_plan(pipeline: Pipeline) -> None:
    sessions = list(pipeline.requests.sessions)
    waiting = [session.request for session in pipeline.requests.waiting]
    assert len(waiting) == len(set(waiting))
    assert set(waiting) == {session.request for session in sessions if session.phase is Phase.QUEUED}
    opened = [session for session in sessions if session.phase is Phase.OPEN]
    assert len(opened) == pipeline.requests.open_count
    active = pipeline.active
    assert active or not opened, "a request is open on no plan"
    for session in opened:
        assert active
        assert session.answer is not None
        assert session.placement is not None
        assert session.placement.epoch == active.plan.epoch, "a request is open on a plan that is not in force"
        assert session.placement.ring == active.plan.nodes
    assert active is None or len(opened) <= active.plan.slots


def _the_successor_is_younger(pipeline: Pipeline) -> None:
    active, successor = pipeline.active, pipeline._switchover.next
    if active and successor:
        assert successor.plan.epoch > active.plan.epoch


def _nothing_is_left_undone(core: Core, now_s: float) -> None:
    """Looking at everything once more finds nothing: what an event touches is known completely."""
    due_s = core.next_deadline_s()
    assert due_s > now_s, "it would be woken at once, again and again"
    core.plane.pipelines.touch_all()
    left: list[Effect] = core.handle(Tick(), now_s)
    assert left == [], "an event has touched more than was seen to"
    assert core.next_deadline_s() >= due_s, "a deadline was overlooked"
