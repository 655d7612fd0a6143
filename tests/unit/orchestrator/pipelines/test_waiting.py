"""What readers are told that their requests wait for, and what it ends with."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.deployment.plan import NoPlan
from orchestrator.pipelines.waiting import waits_for
from orchestrator.requests.patience import end_of
from orchestrator.requests.session import Phase

NO_NODES = NoPlan("no_nodes", "no nodes: start one")


def pipeline(open_count: int = 0) -> Any:
    return SimpleNamespace(is_serving=True, requests=SimpleNamespace(open_count=open_count))


@pytest.mark.parametrize(
    ("open_count", "text"),
    [
        (0, "its turn"),
        (1, "its turn: 1 answer is being computed"),
        (2, "its turn: 2 answers are being computed"),
    ],
)
def test_answers_are_counted_as_people_do(open_count: int, text: str) -> None:
    assert waits_for(pipeline(open_count), (), None).text == text


def test_a_plan_is_waited_for_and_its_absence_is_the_reason() -> None:
    waits = waits_for(pipeline(), (), NO_NODES)
    assert waits.told == "a plan: no nodes: start one"
    session: Any = SimpleNamespace(
        queued_s=0.0, missing_since_s=0.0, interrupted_s=None, expires_at_s=math.inf, phase=Phase.QUEUED
    )
    assert end_of(session, waits, "", 7.0) == ("no_nodes", "no nodes: start one (waited 7 s)")
    assert waits_for(pipeline(), ("phone",), NO_NODES).text == "node phone: no nodes: start one"
