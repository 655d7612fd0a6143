"""Which open requests a stage computes together."""

from __future__ import annotations

import pytest

from edge_node.stage.batch_scheduler import batches, batches_in_flight
from edge_node.stage_spec import StageSpec
from schemas.messages import Epoch
from tests.support.simulated_ring import prepare_segment

EPOCH = Epoch(generation=1, counter=1)
SLOTS = {10: 3, 11: 0, 12: 2, 13: 1, 14: 4}
"""Requests in no order."""


def test_a_batch_is_of_neighbouring_slots() -> None:
    assert batches(SLOTS, count=2, rows_per_message=9) == {11: 0, 13: 0, 12: 0, 10: 1, 14: 1}
    assert batches(SLOTS, count=4, rows_per_message=9) == {11: 0, 13: 0, 12: 1, 10: 1, 14: 2}, "two and two and one"


@pytest.mark.parametrize(("count", "rows_per_message"), [(5, 9), (64, 9), (1, 1)])
def test_each_is_alone(count: int, rows_per_message: int) -> None:
    assert len(set(batches(SLOTS, count=count, rows_per_message=rows_per_message).values())) == 5


def test_what_travels_together_has_to_fit() -> None:
    assert batches(SLOTS, count=1, rows_per_message=3) == {11: 0, 13: 0, 12: 0, 10: 1, 14: 1}


def test_nobody_is_there() -> None:
    assert batches({}, count=3, rows_per_message=9) == {}


@pytest.mark.parametrize(("ring", "nodes"), [("a", 1), ("ab", 2), ("aba", 2), ("abca", 3)])
def test_without_a_table_there_is_a_batch_for_each_node(ring: str, nodes: int) -> None:
    spec = StageSpec.of(prepare_segment(ring, 0, EPOCH))
    assert [batches_in_flight(spec, requests) for requests in (1, 2, 8)] == [nodes] * 3


def test_the_table_says_how_many_batches_there_are() -> None:
    spec = StageSpec.of(prepare_segment("abca", 0, EPOCH, batches=(1, 1, 2)))
    assert [batches_in_flight(spec, requests) for requests in (1, 2, 3)] == [1, 1, 2]
    assert batches_in_flight(spec, 4) == 3, "it ends here"
    assert batches_in_flight(spec, 0) == 3
