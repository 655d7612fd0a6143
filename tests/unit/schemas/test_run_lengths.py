"""How many rows runs compute."""

from __future__ import annotations

import pytest

from schemas.run_lengths import AS_WANTED, CANDIDATES, SPARE_POSITIONS, SPARE_ROWS, RunLengths, spare_rows


def test_no_dummies_unless_wanted() -> None:
    assert [(AS_WANTED.rows(count), AS_WANTED.attended(count)) for count in (1, 2, 33)] == [(1, 1), (2, 2), (33, 33)]
    assert spare_rows(same_bits=False) == 0


def test_multiples() -> None:
    lengths = RunLengths(4, 3, 4)
    assert [lengths.rows(count) for count in range(1, 10)] == [4, 4, 4, 4, 8, 8, 8, 8, 12]
    assert [lengths.attended(count) for count in range(1, 10)] == [4, 8, 8, 8, 8, 12, 12, 12, 12]


@pytest.mark.parametrize("lengths", CANDIDATES, ids=str)
def test_attention_is_as_long_as_other_matrices_at_least_and_spares_are_enough(lengths: RunLengths) -> None:
    for count in range(1, 70):
        assert count <= lengths.rows(count) <= lengths.attended(count)
        assert lengths.rows(count) - count <= SPARE_ROWS == spare_rows(same_bits=True)
        assert lengths.attended(count) - count <= SPARE_POSITIONS
