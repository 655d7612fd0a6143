"""The position rule: duplicates, repeats, reordering and gaps of frames do no harm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.requests.position_rule import PositionRule, Verdict
from tests.support.strategies import examples

FRAMES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12), st.integers(1, 3)), max_size=60)
"""(attempt, position, count) in any order, with any number of repeats."""


@given(FRAMES)
@examples(400)
def test_no_step_is_computed_twice_within_an_attempt(frames: list[tuple[int, int, int]]) -> None:
    """Steps of an attempt come in ascending order; one may go back behind wrong guesses, never to a start before."""
    rule = PositionRule()
    starts: dict[int, int] = {}
    for attempt, position, count in frames:
        if rule.judge(attempt, position) is Verdict.COMPUTE:
            rule.computed(count)
            assert position > starts.get(attempt, -1)
            starts[attempt] = position


@given(FRAMES)
@examples(400)
def test_what_is_computed_follows_without_a_gap_on_what_was_there(frames: list[tuple[int, int, int]]) -> None:
    rule = PositionRule()
    newest = 0
    for attempt, position, count in frames:
        before = rule.valid_length
        verdict = rule.judge(attempt, position)
        if attempt < newest:
            assert verdict is Verdict.STALE
        elif position > before:
            assert verdict is Verdict.GAP
        if verdict is Verdict.COMPUTE:
            assert position <= before
            assert rule.valid_length == position
            rule.computed(count)
            newest = attempt
        else:
            assert rule.valid_length == before
        assert rule.attempt == newest


@given(st.data())
@examples(200)
def test_any_interleaving_of_an_attempt_and_its_repeat_computes_all_of_it(data: st.DataObject) -> None:
    """As on one connection: each attempt's frames keep their order, but may be doubled and mixed with the other's."""
    length = data.draw(st.integers(1, 8))
    first = data.draw(st.integers(0, length - 1))
    streams = [
        [(0, position) for position in range(length) for _ in range(data.draw(st.integers(1, 2)))],
        [(1, position) for position in range(first, length) for _ in range(data.draw(st.integers(1, 2)))],
    ]
    rule = PositionRule()
    runs: list[tuple[int, int]] = []
    gaps = 0
    while any(streams):
        stream = data.draw(st.sampled_from([stream for stream in streams if stream]))
        attempt, position = stream.pop(0)
        verdict = rule.judge(attempt, position)
        gaps += verdict is Verdict.GAP
        if verdict is Verdict.COMPUTE:
            rule.computed(1)
            runs.append((attempt, position))
    assert len(set(runs)) == len(runs)
    if not gaps:
        assert rule.valid_length == length
        assert rule.attempt == 1


def test_a_gap_does_not_take_the_newer_attempt_over() -> None:
    rule = PositionRule()
    rule.judge(0, 0)
    rule.computed(4)
    assert rule.judge(3, 9) is Verdict.GAP
    assert (rule.attempt, rule.valid_length) == (0, 4)
    assert rule.judge(0, 4) is Verdict.COMPUTE
    rule.computed(1)
    assert rule.judge(3, 2) is Verdict.COMPUTE
    assert (rule.attempt, rule.valid_length) == (3, 2)
    assert rule.judge(0, 2) is Verdict.STALE
