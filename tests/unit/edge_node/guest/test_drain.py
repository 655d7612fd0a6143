"""Asked to stop: who waits for others, how long, and what is said."""

from __future__ import annotations

from edge_node.guest.drain import BROKER_PATIENCE_S, Drain
from edge_node.guest.step import Step


def test_a_node_without_layers_ends_at_once() -> None:
    step = Drain(20.0).step(False, 5.0)
    assert step.ends
    assert not step.announces


def test_a_node_with_layers_says_so_once_and_ends_without_them() -> None:
    departure = Drain(20.0)
    first = departure.step(True, 5.0)
    assert first.announces
    assert not first.ends
    assert "20 s" in first.line
    assert departure.step(True, 24.9) == Step()
    assert departure.step(False, 24.9).ends


def test_time_is_up() -> None:
    departure = Drain(20.0)
    departure.step(True, 5.0)
    assert departure.step(True, 25.0).ends
    assert Drain(0.0).step(True, 5.0).ends


def test_a_broker_that_does_not_answer_can_help_nobody() -> None:
    departure = Drain(20.0)
    assert departure.step(True, 5.0, silent_s=BROKER_PATIENCE_S - 0.1).announces
    assert departure.step(True, 6.0, silent_s=BROKER_PATIENCE_S).ends
    assert Drain(20.0).step(True, 5.0, silent_s=60.0).ends, "it was away before the node was asked to stop"
