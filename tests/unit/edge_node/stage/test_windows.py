"""Windows of guesses on one stage: which are computed, which are dropped, and what a stage says about them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from edge_node.effects import Effect
from edge_node.requests.guess_marks import GuessMarks
from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.work import Computed, RowResult
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, marks
from schemas.messages import Sampling
from tests.support.guessing import always_guess
from tests.unit.edge_node.test_core import NUMBER, Node, sent

PROMPT = (1, 2, 3, 4, 5)
MARKS = GuessMarks(NUMBER, PROMPT)
VERIFY = int(Flag.SAMPLE | Flag.VERIFY)
TEXT = list(range(20, 60))
"""What is guessed to follow the prompt."""


@pytest.fixture(autouse=True)
def guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    def guess(prompt_lookup: PromptLookup, most: int) -> list[int]:
        done = len(prompt_lookup.ids) - len(PROMPT)
        return TEXT[done : done + most]

    always_guess(monkeypatch, guess)


def last_stage() -> Node:
    """It has given the first token, and eleven guesses behind it."""
    node = Node("charlie")
    node.open(prompt_ids=PROMPT, sampling=Sampling(), draft_tokens=3, draft_windows=3, max_tokens=40)
    node.frame("bravo")
    (tokens,) = results(node, 20)
    assert (tokens.position, tokens.count, tokens.width) == (5, 1, 11)
    return node


def window(node: Node, position: int, ids: Sequence[int], attempt: int = 0, sender: str = "bravo") -> list[Effect]:
    data = bytes(4 * len(ids)) + MARKS.of(position, ids)
    return node.frame(sender, position=position, count=len(ids), flags=VERIFY, attempt=attempt, payload=data)


def results(node: Node, *tokens: int) -> list[Frame]:
    work, _ = node.row()
    return [frame for _, frame in sent(node.core.computed(work, Computed(0.1, (RowResult(tokens=tokens),)), 1.0))]


def dropped(node: Node) -> list[Any]:
    work, effects = node.core.next_work()
    assert work is None
    return effects


def test_windows_are_verified_one_behind_the_other() -> None:
    node = last_stage()
    window(node, 5, (20, 21, 22, 23))
    window(node, 9, (24, 25, 26, 27))
    work, row = node.row()
    assert list(row.guess) == [21, 22, 23]
    node.core.computed(work, Computed(0.1, (RowResult(tokens=(21, 22, 23, 24)),)), 1.0)
    _, row = node.row()
    assert (row.position, list(row.guess)) == (9, [25, 26, 27])


def test_behind_a_wrong_guess_nothing_is_computed_and_no_replay_is_asked_for() -> None:
    node = last_stage()
    for position in (5, 9, 13):
        window(node, position, TEXT[position - 5 : position - 1])
    (tokens,) = results(node, 21, 99)
    assert (tokens.position, tokens.count) == (6, 2)
    assert dropped(node) == []
    assert dropped(node) == []
    assert node.core.total_frames_dropped == 0, "nothing was wrong with the network"
    window(node, 7, (99, 23, 24), attempt=1)
    _, row = node.row()
    assert (row.attempt, row.position, list(row.guess)) == (1, 7, [23, 24])


def test_a_window_that_begins_with_another_token_than_was_chosen_is_dropped() -> None:
    node = last_stage()
    for position in (5, 9, 13):
        window(node, position, TEXT[position - 5 : position - 1])
    results(node, 21, 22, 23, 99)
    assert dropped(node) == []
    assert dropped(node) == []


def test_a_window_that_was_lost_is_asked_for() -> None:
    node = last_stage()
    window(node, 9, (24, 25, 26, 27))
    ((_, frame),) = sent(dropped(node))
    assert (frame.kind, frame.position) == (Kind.REPLAY, 5)


def test_a_window_of_a_chain_that_was_given_up_is_verified_up_to_where_it_is_right() -> None:
    node = last_stage()
    window(node, 5, (20, 21, 22, 23))
    results(node, 21, 99)
    window(node, 5, (20, 21, 22, 23), attempt=1)  # the tokens were lost on their way to stage 0
    _, row = node.row()
    assert list(row.guess) == [21]


def test_a_stage_between_passes_marks_on_and_drops_what_waits_behind_a_newer_attempt() -> None:
    node = Node("bravo")
    node.open(prompt_ids=None)
    node.frame("alfa")
    node.compute()
    for position in (5, 9, 13):
        window(node, position, TEXT[position - 5 : position - 1], sender="alfa")
    window(node, 11, (99, 22, 23), attempt=1, sender="alfa")
    frames = []
    while node.core.has_work:
        frames += [frame for _, frame in sent(node.compute())]
    assert [(frame.attempt, frame.position) for frame in frames] == [(0, 5), (0, 9), (1, 11)]
    assert marks(frames[0]) == MARKS.of(5, TEXT[:4])
    assert marks(frames[2]) == MARKS.of(11, (99, 22, 23))


def tokens_payload(*ids: int, window: int) -> bytes:
    """Of a TOKENS frame with guesses."""
    return struct.pack(f"<{len(ids) + 1}i", *ids, window)


@pytest.mark.parametrize("window", [4, 3, 100, 2**31 - 1, 0, -1])
def test_the_first_stage_says_which_tokens_a_window_holds(window: int) -> None:
    node = Node("alfa")
    node.open(draft_tokens=3)
    node.compute()
    payload = tokens_payload(20, 21, 22, 23, 24, window=window)
    node.frame("charlie", kind=Kind.TOKENS, dtype=Dtype.INT32, width=4, flags=0, position=5, count=1, payload=payload)
    work, row = node.row()
    assert (list(row.ids or ()), row.verify) == ([20, 21, 22], True), "five positions are cut into two windows"
    (effect,) = node.core.computed(work, Computed(0.1, (RowResult(payload=bytes(12)),)), 1.0)
    assert marks(decode_frame(effect.data)) == MARKS.of(5, (20, 21, 22))  # type: ignore[union-attr]
    _, row = node.row()
    assert (row.position, list(row.ids or ()), row.verify) == (8, [23, 24], True)


def test_the_last_stage_says_how_long_windows_are() -> None:
    node = Node("alfa")
    node.open(draft_tokens=8)
    node.compute()
    payload = tokens_payload(20, 21, 22, 23, 24, 25, window=2)
    node.frame("charlie", kind=Kind.TOKENS, dtype=Dtype.INT32, width=5, flags=0, position=5, count=1, payload=payload)
    windows = [list(node.row()[1].ids or ()) for _ in range(3)]
    assert windows == [[20, 21], [22, 23], [24, 25]]


@pytest.mark.parametrize(("draft_tokens", "guessed"), [(0, 4), (3, 64)])
def test_guesses_that_nobody_wanted_are_not_computed(draft_tokens: int, guessed: int) -> None:
    node = Node("alfa", context_tokens=128)
    node.open(draft_tokens=draft_tokens)
    node.compute()
    payload = tokens_payload(*[20] * (1 + guessed), window=4)
    node.frame(
        "charlie", kind=Kind.TOKENS, dtype=Dtype.INT32, width=guessed, flags=0, position=5, count=1, payload=payload
    )
    _, row = node.row()
    assert (list(row.ids or ()), row.verify) == ([20], False)
    assert not node.core.has_work
