"""Numbers in this process's memory, replaced where all of them are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.runtime import process_memory
from edge_node.runtime.packed_corrections.packed_sums import Piece, Replacement, replace

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the system does not show memory as a file")
Values = NDArray[np.float32]


def room(values: int, offset_bytes: int) -> Values:
    """Memory at an address that is so much behind a multiple of 64."""
    whole = np.zeros(values + 32, np.float32)
    begin = (-whole.ctypes.data % 64 + offset_bytes) // 4
    return whole[begin : begin + values]


def aligned(values: Values, offset_bytes: int = 0) -> Values:
    placed = room(values.size, offset_bytes).reshape(values.shape)
    placed[...] = values
    return placed


def sums(seed: int, panels: int = 3, blocks: int = 5) -> Values:
    """Numbers at an address where nothing is sought, as is what they are made of."""
    made = room(panels * blocks * 16, 4).reshape(panels, blocks, 16)
    np.random.default_rng(seed).random(out=made, dtype=np.float32)
    made -= 9
    return made


def ones(panels: int = 3) -> Values:
    return np.ones((panels, 5, 16), np.float32)


def pieces(values: Values, rows: int) -> Callable[[], Iterator[Piece]]:
    """A panel in each piece."""
    return lambda: (Piece(values[n : n + 1], min(16, rows - 16 * n)) for n in range(len(values)))


def wanted(before: Values, after: Values, times: int = 1, rows: int | None = None) -> Replacement:
    count = 16 * len(before) if rows is None else rows
    return Replacement(pieces(before, count), pieces(after, count), times)


def test_all_pieces_are_replaced_and_nothing_else() -> None:
    first, second, other = aligned(sums(1)), aligned(sums(2, panels=40)), aligned(sums(3))
    assert replace([wanted(sums(1), ones()), wanted(sums(2, panels=40), ones(40))]) == ""
    assert (first == 1).all()
    assert (second == 1).all()
    assert (other == sums(3)).all()


def test_one_that_several_products_have_is_replaced_everywhere() -> None:
    both = aligned(sums(14)), aligned(sums(14))
    assert replace([wanted(sums(14), ones(), times=2)]) == ""
    assert (both[0] == 1).all()
    assert (both[1] == 1).all()


def test_what_is_not_there_in_full_stays() -> None:
    whole, damaged = aligned(sums(4)), sums(5)
    damaged[2, 4, 15] += 1
    damaged = aligned(damaged)
    failure = replace([wanted(sums(seed), ones()) for seed in (4, 5)])
    assert failure == "1 of 2 packed matrices are not where they were expected"
    assert (whole == sums(4)).all()
    assert (damaged[:2] == sums(5)[:2]).all()


def test_what_is_not_aligned_is_not_found() -> None:
    aside = aligned(sums(6), 16)
    assert "not where they were expected" in replace([wanted(sums(6), ones())])
    assert (aside == sums(6)).all()


def test_two_that_are_alike_stay() -> None:
    """Nobody knows which of them is whose."""
    both = aligned(sums(8)), aligned(sums(8))
    failure = replace([wanted(sums(8), ones()), wanted(sums(8), sums(9))])
    assert failure == "2 of 2 packed matrices are not where they were expected"
    assert (both[0] == sums(8)).all()
    assert (both[1] == sums(8)).all()


def test_the_last_panel_may_be_filled_up_with_anything() -> None:
    there = aligned(sums(10))
    there[2, :, 8:] = 7
    assert replace([wanted(sums(10), ones(), rows=40)]) == ""
    assert (there == 1).all()


def test_what_is_no_number_matches_nothing() -> None:
    there, expected = aligned(sums(15)), sums(15)
    expected[1:] = np.nan
    assert "not where they were expected" in replace([wanted(expected, ones())])
    assert (there == sums(15)).all()


def test_one_inside_of_another_stays() -> None:
    """Both would be there, and whoever is written second spoils the first."""
    whole = aligned(sums(16))
    failure = replace([wanted(sums(16), ones()), wanted(sums(16)[:2], ones(2))])
    assert "not where they were expected" in failure
    assert (whole == sums(16)).all()


def test_zeros_are_no_landmark() -> None:
    assert replace([wanted(np.zeros((1, 2, 16), np.float32), sums(11))]) == "a matrix has blocks without a scale"


def test_a_system_that_does_not_show_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_memory, "_MEMORY", tmp_path / "none")
    with pytest.raises(OSError, match="No such file"):
        replace([wanted(sums(12), sums(13))])
