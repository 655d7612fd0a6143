"""The last stage of an answer that is bound to a form waits for what may come, and sends what can't be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edge_node.requests.guess_marks import GuessMarks
from edge_node.work import Computed, RowResult
from schemas.codec import Dtype, Flag, Frame, Kind, decode_frame, encode_frame
from schemas.errors import MaskError
from schemas.messages import AllowTokens, MasksWanted, Sampling, TokenMask
from schemas.token_mask import mask_bytes, mask_id, pack_mask
from schemas.topics import SEGMENT
from tests.support.simulated_ring import VOCABULARY
from tests.unit.edge_node.test_core import NUMBER, PIPELINE, REQUEST, Node, epoch, frames_of, opening, replies


def a_set(*ids: int) -> bytes:
    return sum(1 << number for number in ids).to_bytes(mask_bytes(VOCABULARY), "little")


def told(mask: bytes | None, *, by_name: bool = False) -> TokenMask:
    if mask is None:
        return TokenMask()
    return TokenMask(id=mask_id(mask), data=None if by_name else pack_mask(mask))


def allow(position: int, expected: Sequence[int], *masks: TokenMask, counter: int = 1) -> AllowTokens:
    return AllowTokens(
        request=REQUEST, epoch=epoch(counter), position=position, expected=tuple(expected), masks=masks
    )  # fmt: skip


def last_stage(**changes: Any) -> Node:
    node = Node("charlie")
    node.open(**({"prompt_ids": None, "sampling": Sampling(), "has_grammar": True} | changes))
    return node


def choose(node: Node, *tokens: int) -> list[Any]:
    work, _ = node.row()
    return frames_of(node.core.computed(work, Computed(0.1, (RowResult(tokens=tokens),)), 1.0))


def test_no_token_is_chosen_before_it_is_known_which_may_come() -> None:
    node = last_stage(prompt_tokens=13)
    node.frame("bravo", position=0, count=8, flags=0)
    node.compute()  # a chunk that gives no token need not wait
    node.frame("bravo", position=8, count=5)
    assert not node.core.has_work
    assert node.core.message(allow(12, (), told(a_set(1)))) == []
    assert not node.core.has_work, "that was for another position"
    assert node.core.message(allow(13, (), told(a_set(3, 5)))) == []
    _, row = node.row()
    assert row.draw is not None
    assert row.draw.allowed == [a_set(3, 5)]


def test_other_answers_do_not_wait_for_it() -> None:
    node = last_stage()
    other = "00000000000000bb"
    node.core.message(opening(request=other, stage=2, prompt_ids=None, sampling=Sampling()))
    node.frame("bravo", count=5)
    node.frame("bravo", count=5, request=0xBB)
    _, row = node.row()
    assert (row.request, row.draw and row.draw.allowed) == (0xBB, None)
    assert not node.core.has_work


def test_tokens_that_nothing_else_can_come_for_need_no_further_message() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    node.core.message(allow(5, (7, 8), told(None), told(None), told(a_set(1, 2))))
    for position, token, expected in ((5, 7, [7]), (6, 8, [8]), (7, 1, [a_set(1, 2)])):
        work, row = node.row()
        assert row.draw is not None
        assert row.draw.allowed == expected
        node.core.computed(work, Computed(0.1, (RowResult(tokens=(token,)),)), 1.0)
        node.frame("bravo", position=position, count=1)
    assert not node.core.has_work, "what follows is not known yet"


def test_a_step_that_is_repeated_finds_what_may_come_still_there() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    node.core.message(allow(5, (), told(a_set(1, 2))))
    choose(node, 1)
    node.core.message(allow(6, (), told(a_set(3))))
    node.frame("bravo", count=5, attempt=1)
    _, row = node.row()
    assert row.draw is not None
    assert row.draw.allowed == [a_set(1, 2)]


def test_a_frame_that_is_to_be_dropped_holds_nothing_up() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    node.core.message(allow(5, (), told(a_set(1))))
    choose(node, 1)
    node.core.message(allow(6, (), told(a_set(2))))
    node.frame("bravo", position=5, count=1)
    choose(node, 2)
    for position in (8, 9, 10):
        node.core.message(allow(position, (), told(a_set(1))))
    node.frame("bravo", position=5, count=1)  # once more, by the network
    node.core.message(allow(7, (), told(a_set(4))))
    node.frame("bravo", position=6, count=1)
    work, effects = node.core.next_work()
    while work is None and node.core.has_work:
        work, effects = node.core.next_work()
    assert work
    assert not effects
    assert (work.rows[0].position, work.rows[0].draw and work.rows[0].draw.allowed) == (6, [a_set(4)])


def test_certain_tokens_are_guessed_and_verified_along_their_path() -> None:
    node = last_stage(prompt_ids=(1, 2, 3, 4, 5), draft_tokens=8, max_tokens=40)
    node.frame("bravo", count=5)
    node.core.message(allow(5, (7, 8, 9), told(None), told(None), told(None), told(a_set(1, 2))))
    (tokens,) = choose(node, 7)
    assert (tokens.count, tokens.width) == (1, 2), "the other two, as a guess"
    marks = GuessMarks(NUMBER, (1, 2, 3, 4, 5)).of(5, (7, 8, 9))
    node.frame("bravo", position=5, count=3, flags=Flag.SAMPLE | Flag.VERIFY, payload=bytes(12) + marks)
    _, row = node.row()
    assert row.draw is not None
    assert (list(row.guess), row.draw.allowed) == ([8, 9], [8, 9, a_set(1, 2)])


def test_a_set_is_told_once_and_asked_for_where_it_is_not_known() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    (wanted,) = replies(node.core.message(allow(5, (), told(a_set(1, 2), by_name=True))), MasksWanted)
    assert (wanted.node, wanted.epoch, wanted.request, wanted.position) == ("charlie", epoch(1), REQUEST, 5)
    assert not node.core.has_work
    assert node.core.message(allow(5, (), told(a_set(1, 2)))) == []
    choose(node, 1)
    node.frame("bravo", position=5, count=1)
    assert node.core.message(allow(6, (), told(a_set(1, 2), by_name=True))) == []
    assert node.core.has_work


@pytest.mark.parametrize(
    "message",
    [
        allow(5, (), TokenMask(id=mask_id(a_set(1)), data=pack_mask(a_set(2)))),
        allow(5, (), TokenMask(id=mask_id(a_set(1)), data="AAAA")),
        allow(5, (), TokenMask(id=mask_id(b"\1"), data=pack_mask(b"\1"))),
        allow(5, (), TokenMask()),
        allow(5, (1, 2), TokenMask()),
        allow(5, (), told(a_set(1)), told(a_set(1))),
        allow(5, (VOCABULARY,), TokenMask()),
    ],
    ids=["another-set", "garbage", "another-vocabulary", "nothing", "too-few", "too-many", "no-such-token"],
)
def test_what_does_not_add_up_is_refused_and_changes_nothing(message: AllowTokens) -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    with pytest.raises(MaskError):
        node.core.message(message)
    assert not node.core.has_work
    node.core.message(allow(5, (), told(a_set(1))))
    assert node.core.has_work


def test_what_is_told_to_another_epoch_or_an_answer_without_a_form_is_not_for_it() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    assert node.core.message(allow(5, (), told(a_set(1)), counter=2)) == []
    assert not node.core.has_work
    free = last_stage(has_grammar=False)
    assert free.core.message(allow(5, (), TokenMask())) == [], "not even looked at"


def test_a_step_takes_the_fast_path_once_it_is_known_which_tokens_may_come() -> None:
    node = last_stage()
    node.frame("bravo", count=5)
    node.core.message(allow(5, (), told(a_set(1, 2))))
    choose(node, 1)
    topic = SEGMENT.format(pipeline=PIPELINE, epoch=epoch(1), stage=2, sender="bravo", receiver="charlie")
    for position, token, allowed in ((5, 3, a_set(3)), (6, 4, a_set(4, 5))):
        step = encode_frame(
            Frame(Kind.ACTIVATION, NUMBER, epoch(1), 0, position, 1, 1, Dtype.FP32, int(Flag.SAMPLE), bytes(4))
        )
        assert node.core.fast_path(topic, step, 1.0) is None
        node.core.message(allow(position + 1, (), told(allowed)))
        fast_path = node.core.fast_path(topic, step, 1.0)
        assert fast_path
        assert fast_path.draw().allowed == [allowed]
        assert decode_frame(fast_path.frame(token, 1.0)).position == position + 1
        fast_path.settle(0.1, 1.0)


def test_a_ring_of_one_stage_waits_too() -> None:
    node = Node("solo", ("solo",))
    node.open(has_grammar=True, sampling=Sampling())
    assert not node.core.has_work
    node.core.message(allow(5, (), told(a_set(3))))
    work, row = node.row()
    assert row.draw is not None
    assert row.draw.allowed == [a_set(3)]
    node.core.computed(work, Computed(0.1, (RowResult(tokens=(3,)),)), 1.0)
    assert not node.core.has_work, "the next step is there, and what may come is not known"
    node.core.message(allow(6, (), told(a_set(4))))
    assert node.row()[1].position == 5
