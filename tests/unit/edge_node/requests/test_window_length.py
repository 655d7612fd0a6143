"""How long windows of guesses are."""

from __future__ import annotations

import pytest

from edge_node.requests.window_length import WindowLength


def length_after(per_row: float) -> WindowLength:
    """When one row more makes a run longer by this share of a run of one."""
    length = WindowLength()
    for positions in (2, 9, 5, 2):
        length.ran(positions, 0.01 * (1 + per_row * (positions - 1)), 0.01)
    return length


@pytest.mark.parametrize(
    ("per_row", "positions"), [(0.0, 9), (0.03, 9), (0.1, 9), (0.2, 6), (0.35, 4), (0.5, 3), (0.8, 2), (5.0, 2)]
)
def test_a_window_takes_twice_as_long_as_a_run_of_one(per_row: float, positions: int) -> None:
    assert length_after(per_row).positions(20, most=9, windows=16) == positions


def test_it_is_expected_before_it_is_measured() -> None:
    length = WindowLength()
    length.ran(1, 1.0, 1.0)
    length.ran(4, 1.0, None)
    assert length.positions(20, most=9, windows=16) == 5


@pytest.mark.parametrize(
    ("chain", "windows", "positions"), [(5, 1, 5), (20, 1, 9), (20, 4, 5), (20, 16, 3), (144, 16, 9)]
)
def test_a_chain_that_needs_too_many_windows_is_cut_into_longer_ones(chain: int, windows: int, positions: int) -> None:
    assert length_after(0.5).positions(chain, most=9, windows=windows) == positions


def test_one_run_that_was_held_up_is_soon_forgotten() -> None:
    length = length_after(0.1)
    length.ran(3, 30.0, 0.01)
    assert length.positions(20, most=9, windows=16) == 5
    for _ in range(8):
        length.ran(5, 0.014, 0.01)
    assert length.positions(20, most=9, windows=16) >= 8


def test_a_run_that_was_quicker_than_one_of_one_position_is_nothing_to_reckon_with() -> None:
    length = WindowLength()
    length.ran(4, 0.5, 1.0)
    assert length.positions(20, most=9, windows=16) == 9
