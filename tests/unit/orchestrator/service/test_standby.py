"""When an orchestrator that stands by begins to serve."""

from __future__ import annotations

from orchestrator.service.standby import SILENCE_S, Incumbent
from orchestrator.service.tenure import Tenure
from schemas.messages import OrchestratorStatus

TENURE = Tenure.begin("main", "bbbb", generation=3, host="pi")
WILL = OrchestratorStatus(pipeline="main", orchestrator="bbbb", state="gone")


def test_it_waits_while_the_other_one_is_heard() -> None:
    incumbent = Incumbent(100.0)
    for now_s in range(101, 200):
        incumbent.take(TENURE.own, float(now_s), retained=False)
        assert not incumbent.is_missing(now_s + SILENCE_S - 0.1)
    assert incumbent.is_missing(199.0 + SILENCE_S)


def test_what_the_broker_remembers_is_no_sign_of_life() -> None:
    incumbent = Incumbent(100.0)
    incumbent.take(TENURE.own, 104.0, retained=True)
    assert not incumbent.is_missing(104.0)
    assert incumbent.is_missing(100.0 + SILENCE_S)


def test_one_that_ended_of_its_own_accord_is_replaced_at_once() -> None:
    incumbent = Incumbent(100.0)
    incumbent.take(TENURE.own, 101.0, retained=False)
    incumbent.take(TENURE.gone, 101.1, retained=False)
    assert incumbent.is_missing(101.1)


def test_one_that_lost_its_connection_has_time_to_come_back() -> None:
    incumbent = Incumbent(100.0)
    incumbent.take(TENURE.own, 101.0, retained=False)
    incumbent.take(WILL, 101.5, retained=False)
    assert not incumbent.is_missing(105.9)
    incumbent.take(TENURE.own, 105.9, retained=False)
    assert not incumbent.is_missing(110.8)


def test_silence_is_no_news_while_we_are_cut_off() -> None:
    incumbent = Incumbent(100.0)
    incumbent.take(TENURE.gone, 101.0, retained=False)
    incumbent.cut_off(130.0)
    assert not incumbent.is_missing(134.0)
