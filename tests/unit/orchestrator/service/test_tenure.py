"""Which of several orchestrators serves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.service.tenure import Claim, Tenure, taken
from schemas.messages import OrchestratorStatus

OWN = Tenure.begin("main", "bbbb", generation=3, host="pi")


def other(**changes: object) -> OrchestratorStatus:
    return replace(OWN.own, orchestrator="cccc", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heard", "claim"),
    [
        (OWN.own, Claim.NOTHING),
        (replace(OWN.own, state="asks"), Claim.NOTHING),
        (other(pipeline="another", generation=9), Claim.NOTHING),
        (other(state="asks"), Claim.ASSERT),
        (other(state="gone", generation=9), Claim.ASSERT),
        (other(generation=2), Claim.ASSERT),
        (other(generation=4), Claim.YIELD),
        (other(generation=3), Claim.YIELD),
        (replace(other(generation=3), orchestrator="aaaa"), Claim.ASSERT),
    ],
)
def test_the_higher_generation_serves_and_then_the_higher_name(heard: OrchestratorStatus, claim: Claim) -> None:
    assert OWN.heard(heard) is claim


def test_of_two_exactly_one_yields() -> None:
    for generation in (2, 3, 4):
        rival = Tenure.begin("main", "cccc", generation=generation, host="laptop")
        claims = {OWN.heard(rival.own), rival.heard(OWN.own)}
        assert claims == {Claim.YIELD, Claim.ASSERT}


def test_a_second_orchestrator_is_told_who_serves_in_one_line() -> None:
    text = str(taken(OWN.own))
    assert "on pi, since 20" in text
    assert "--take-over" in text
    assert "\n" not in text
