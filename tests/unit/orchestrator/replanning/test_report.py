"""What is told of planning, and what is over."""

from __future__ import annotations

from orchestrator.effects import Effect, Note
from orchestrator.replanning.report import PlanningReport
from tests.support.orchestrating import World


def texts(effects: list[Effect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, Note)]


def test_that_a_plan_stays_is_not_told_again_and_again() -> None:
    world = World().serve("a", "b", "c")
    active = world.core.plane.pipelines.lead.active
    assert active
    report, plan = PlanningReport("main"), active.plan
    told = [*report.stays(plan, "no node"), *report.stays(plan, "no node"), *report.stays(plan, "no memory")]
    assert [text.partition(": ")[2] for text in texts(told)] == ["no node", "no memory"]
    assert report.why_it_stays == "no memory"


def test_a_failure_is_over_once_a_plan_is_in_force() -> None:
    report = PlanningReport("main")
    report.last_failure = "b: a blob can't be fetched"
    report.replaced()
    assert report.last_failure == ""
    assert [outcome.ok for outcome in report.take_outcomes()] == [True]
