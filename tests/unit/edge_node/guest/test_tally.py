"""Tokens that a node has served, from what its stages say of themselves."""

from __future__ import annotations

from edge_node.guest.tally import Tally
from schemas.messages import Epoch, StageMetrics


def stage(number: int, positions: int, counter: int = 1) -> StageMetrics:
    return StageMetrics(
        pipeline="main", epoch=Epoch(generation=1, counter=counter), stage=number, positions=positions
    )  # fmt: skip


def test_what_was_served_adds_up_over_stages_and_epochs() -> None:
    tally = Tally()
    for stages in (
        (),
        (stage(1, 10),),
        (stage(1, 25),),
        (stage(1, 30), stage(0, 5, counter=2)),
        (stage(0, 9, counter=2),),
        (),
    ):
        tally.add(stages)
    assert tally.tokens == 30 + 9
    tally.add([stage(1, 4, counter=3)])
    assert tally.tokens == 43


def test_both_ends_of_a_ring_count_once() -> None:
    tally = Tally()
    tally.add([stage(2, 8), stage(0, 9)])
    tally.add([stage(2, 12), stage(0, 12)])
    assert tally.tokens == 12
