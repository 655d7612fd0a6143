"""Whole rings of node cores over a simulated network: the tokens are the right ones, however requests come and go."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from schemas.codec import Kind
from schemas.messages import Sampling
from tests.support.simulated_ring import LATENCY_S, SimulatedAnswer, SimulatedRing, prompt, reference_tokens


def assert_right(ring: SimulatedRing, answer: SimulatedAnswer) -> None:
    expected = reference_tokens(answer.prompt_ids, answer.max_tokens, len(ring.ring))
    assert answer.ids == expected
    assert answer.failures == []


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 33])
def test_a_quiet_network(stages: int, length: int) -> None:
    ring = SimulatedRing(stages)
    answer = ring.open(1, prompt(length), 12)
    ring.run(lambda: answer.complete)
    assert_right(ring, answer)
    assert set(ring.positions_issued(answer)) == set(range(length + 11))
    assert set(ring.positions_issued(answer).values()) == {1}
    assert ring.frames_dropped() == 0
    assert ring.frames[Kind.REPLAY] == 0
    ring.close(answer)
    assert ring.open_requests() == 0
    assert [answer.timings[stage].positions for stage in range(stages)] == [length + 11] * stages
    assert {timing.decode_steps for timing in answer.timings.values()} == {11}
    assert {node.core.tokens for node in ring.nodes.values()} == {12}, "what each of them has had a part in"


@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("draft_tokens", [0, 4])
def test_the_short_way_and_the_long_way_leave_the_same_behind(stages: int, draft_tokens: int) -> None:
    """Also where the answer ends, and with a penalty, which needs the tokens so far."""
    penalty = Sampling(repetition_penalty=1.2)
    traces = []
    for short_ways in (True, False):
        ring = SimulatedRing(stages, short_ways=short_ways)
        answer = ring.open(1, prompt(21), 16, sampling=penalty, draft_tokens=draft_tokens)
        ring.run(lambda answer=answer: answer.complete)
        assert_right(ring, answer)
        metrics = [(node.core.metrics(), node.core.tokens) for node in ring.nodes.values()]
        ring.close(answer)
        traces.append((answer.timings, metrics, ring.frames, ring.computed(), answer.finished_s))
        short_steps = [node.short_steps for node in ring.nodes.values()]
        if not short_ways:
            assert short_steps == [0] * stages
        elif not draft_tokens:
            assert short_steps == [15] * stages, "the prompt's last chunk gives the first of 16 tokens"
    assert traces[0] == traces[1]


@pytest.mark.parametrize("order", [(0, 1, 0), (0, 1, 2, 0), (0, 0), (0, 1, 1)])
def test_a_node_with_two_stages(order: Sequence[int]) -> None:
    """Above all the first and the last: embedding and head are the same weights."""
    ring = SimulatedRing(3)
    ring.deploy([f"node{index}" for index in order])
    answers = [ring.open(number, prompt(21, number), 12) for number in range(3)]
    ring.run(lambda: all(answer.complete for answer in answers))
    for answer in answers:
        assert_right(ring, answer)
        assert ring.frames[Kind.REPLAY] == 0
        ring.close(answer)
    assert ring.open_requests() == 0
    assert {ring.nodes[f"node{index}"].core.tokens for index in order} == {3 * 12}, "once for each node"


def test_with_both_ends_on_one_node_a_token_needs_no_way_back() -> None:
    times_s = []
    for order in ((0, 1, 2), (0, 1, 0)):
        ring = SimulatedRing(3, position_s=0.0005)
        ring.deploy([f"node{index}" for index in order])
        answer = ring.open(1, prompt(8), 12)
        ring.run(lambda answer=answer: answer.complete)
        assert_right(ring, answer)
        assert ring.frames_dropped() == 0
        assert answer.finished_s is not None
        assert answer.first_token_s is not None
        times_s.append((answer.finished_s - answer.first_token_s) / 11)
    assert times_s == pytest.approx([3 * (0.0005 + LATENCY_S), 3 * 0.0005 + 2 * LATENCY_S])


@pytest.mark.parametrize(
    ("order", "table", "groups"),
    [
        ((0, 1, 2), (), ["ab", "cd", "ef"]),
        ((0, 1, 0), (), ["abc", "def"]),
        ((0, 1, 2), (1, 1, 1, 1, 1, 1), ["abcdef"]),
        ((0, 1, 0), (1, 2, 3, 4, 5, 6), list("abcdef")),
        ((0, 1, 2), (1, 1, 1), ["ab", "cd", "ef"]),
    ],
    ids=["one for each node", "and not for each stage", "one", "six", "more requests than the table has"],
)
def test_all_stages_make_the_same_batches(order: Sequence[int], table: tuple[int, ...], groups: list[str]) -> None:
    ring = SimulatedRing(3, slots=6, position_s=0.01)  # so slow that much waits together
    ring.deploy([f"node{index}" for index in order], batches=table)
    answers = [ring.open(number, prompt(9, number), 24) for number in range(6)]
    ring.run(lambda: all(answer.complete for answer in answers))
    for answer in answers:
        assert_right(ring, answer)
    for node in ring.nodes.values():
        for stage in node.core._stages.values():
            assert len(stage.requests) == 6
            by_group = itertools.groupby(sorted(stage._groups, key=lambda n: stage._groups[n]), stage._groups.get)
            assert ["".join("abcdef"[number] for number in group) for _, group in by_group] == groups
        late = [work for work in node.runs if work.rows[0].position > 20]  # all requests are open
        made = [{"abcdef"[row.request] for row in work.rows} for work in late]
        assert all(any(batch <= set(group) for group in groups) for batch in made), "or those of a batch that wait"


def test_a_long_prompt_does_not_starve_an_answer_in_progress() -> None:
    """Between two tokens of the short request there is at most a chunk of the long one on each stage."""
    ring = SimulatedRing(3, context_tokens=4096, position_s=0.001)
    short = ring.open(1, prompt(4), 60)
    ring.run(lambda: len(short.tokens) == 10)
    long = ring.open(2, prompt(2000, 2), 2)
    started_s = ring.now_s
    ring.run(lambda: short.complete)
    assert short.finished_s is not None
    assert short.finished_s - started_s < 50 * (3 * 0.009 + 3 * 0.001 + 0.02)
    assert not long.tokens
    ring.run(lambda: long.complete)
    assert_right(ring, short)
    assert_right(ring, long)


def test_requests_of_equal_length_end_together() -> None:
    ring = SimulatedRing(2, position_s=0.001)
    answers = [ring.open(number, prompt(5, number), 30) for number in range(4)]
    ring.run(lambda: all(answer.complete for answer in answers))
    ends_s = [answer.finished_s for answer in answers if answer.finished_s is not None]
    assert max(ends_s) - min(ends_s) < 0.05
    for answer in answers:
        assert_right(ring, answer)


def test_a_close_in_mid_flight_frees_slots_and_harms_nobody() -> None:
    ring = SimulatedRing(3, slots=2)
    first, second = ring.open(1, prompt(20), 40), ring.open(2, prompt(9, 2), 30)
    ring.run(lambda: len(first.tokens) == 3)
    ring.close(first)
    third = ring.open(3, prompt(17, 3), 10)
    ring.run(lambda: second.complete and third.complete)
    assert_right(ring, second)
    assert_right(ring, third)
    assert len(first.tokens) < 40
    ring.close(second)
    ring.close(third)
    assert ring.open_requests() == 0


def test_slots_used_over_and_over() -> None:
    ring = SimulatedRing(2, slots=1)
    for number in range(20):
        answer = ring.open(number, prompt(3 + number % 17, number), 6)
        ring.run(lambda: answer.complete)  # noqa: B023
        assert_right(ring, answer)
        ring.close(answer)
    assert ring.open_requests() == 0


def test_a_full_ring_says_busy() -> None:
    ring = SimulatedRing(2, slots=1)
    first, second = ring.open(1, prompt(5), 20), ring.open(2, prompt(5, 2), 20)
    ring.run(lambda: first.complete)
    assert_right(ring, first)
    assert {failure.code for failure in second.failures} == {"busy"}
    assert len(second.failures) == 2


def test_a_request_goes_on_in_a_new_epoch_with_the_tokens_so_far() -> None:
    """As after the loss of a node: prompt and tokens are replayed, the answer goes on where it stopped."""
    ring = SimulatedRing(4)
    prompt_ids = prompt(21)
    first = ring.open(1, prompt_ids, 25)
    ring.run(lambda: len(first.ids) >= 9)
    known = first.ids[:9]
    lost = ring.nodes.pop("node3")
    whole = ["node0", "node1", "node2"]
    del lost
    # The reference of a ring of three stages differs from that of four: begin with the three's own tokens.
    ring.deploy(whole)
    known = reference_tokens(prompt_ids, 25, 3)[:9]
    second = ring.open(1, [*prompt_ids, *known], 25, prompt_tokens=len(prompt_ids))
    ring.run(lambda: second.complete)
    assert known + second.ids == reference_tokens(prompt_ids, 25, 3)
    first_stage = [
        (row.position, row.count) for work in ring.nodes["node0"].runs if work.key[1] == ring.epoch for row in work.rows
    ]
    assert first_stage[:3] == [(0, 8), (8, 8), (16, 5)]
    assert {count for _, count in first_stage[3:]} == {1}, "generated tokens are replayed one at a time"
    ring.close(second)
    assert second.timings[0].decode_steps == 24


def test_the_end_of_sequence_ends_the_ring() -> None:
    ring = SimulatedRing(3)
    expected = reference_tokens(prompt(5), 20, 3)
    answer = ring.open(1, prompt(5), 20, eos_ids=[expected[6]])
    ring.run(lambda: answer.complete)
    ring.settle(5.0)
    assert answer.ids == expected[: expected.index(expected[6]) + 1]
    assert answer.finish.name == "STOP"
    assert max(ring.positions_issued(answer)) == 5 + 6 - 1


def test_the_context_ends_an_answer() -> None:
    ring = SimulatedRing(3, context_tokens=16)
    answer = ring.open(1, prompt(10), 100)
    ring.run(lambda: answer.complete)
    assert answer.finish.name == "LENGTH"
    assert max(answer.tokens) == 15
