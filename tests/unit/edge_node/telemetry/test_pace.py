"""How often a node says how it is."""

from __future__ import annotations

from edge_node.telemetry.pace import LINGER_S, SELDOM_S, Pace


def test_a_node_to_which_nothing_happens_is_heard_seldom_and_says_so() -> None:
    pace = Pace(1.0)
    assert pace.due_s(0.0, serving=False) <= 0.0
    assert pace.said("news", 0.0, serving=False) == 1.0, "that it is there is news"
    assert pace.said("news", LINGER_S, serving=False) == SELDOM_S
    assert pace.due_s(LINGER_S, serving=False) == LINGER_S + SELDOM_S
    assert pace.said("others", 20.0, serving=False) == 1.0


def test_what_happens_calls_for_a_heartbeat_unless_there_was_one_just_before() -> None:
    pace = Pace(1.0)
    pace.said(None, 100.0, serving=False)
    pace.stirred(102.0)
    assert pace.due_s(102.0, serving=False) == 101.0
    pace.said(None, 102.0, serving=False)
    assert pace.due_s(102.1, serving=True) == 102.5, "requests are open"


def test_what_was_promised_is_kept_when_nothing_more_happens() -> None:
    pace = Pace(1.0)
    pace.stirred(0.0)
    assert pace.said(None, LINGER_S - 0.1, serving=False) == 1.0
    assert pace.due_s(LINGER_S + 0.1, serving=False) == LINGER_S + 0.9
