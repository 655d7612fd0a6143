"""When a node rests, what it waits for first, and how it is over."""

from __future__ import annotations

from edge_node.guest.rest import Rest
from edge_node.guest.step import Step

HOT = "it is hot"


def test_others_have_their_time_then_layers_go_and_again_if_some_are_left() -> None:
    rest = Rest(20.0)
    assert rest.step(True, 0.0) == Step()
    rest.because("heat", HOT)
    first = rest.step(True, 5.0)
    assert first.announces
    assert not first.lets_go
    assert "within 20 s" in first.line
    assert rest.due_s(True) == 25.0
    assert rest.due_s(False) is None
    assert rest.step(True, 24.9) == Step()
    assert rest.step(True, 25.0).lets_go
    assert rest.step(False, 25.1) == Step()
    assert rest.step(True, 26.0).lets_go


def test_without_patience_layers_go_at_once() -> None:
    rest = Rest(0.0)
    rest.because("pause", "paused")
    assert rest.step(True, 5.0).announces
    assert rest.step(True, 5.0).lets_go


def test_another_reason_is_told_and_gives_no_more_time() -> None:
    rest = Rest(20.0)
    rest.because("heat", HOT)
    rest.step(True, 0.0)
    rest.because("pause", "paused")
    assert rest.reason == "it is hot; paused"
    assert rest.step(True, 10.0).announces
    assert rest.due_s(True) == 20.0
    rest.because("heat", "")
    assert rest.step(True, 11.0).announces
    rest.because("pause", "")
    over = rest.step(True, 12.0)
    assert over.announces
    assert not over.lets_go
    assert rest.due_s(True) is None
    assert rest.step(True, 60.0) == Step()
