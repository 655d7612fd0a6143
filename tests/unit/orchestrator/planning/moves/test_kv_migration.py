"""What moving open requests costs: by copying, and by computing again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.moves.kv_migration import (
    DEFAULT_RATE_BYTES_PER_S,
    HOLD_S,
    SLOWDOWN,
    Migration,
    Transfer,
    estimate,
)
from orchestrator.planning.solution import Prediction, StageFigures


def ring(*position_s: float, hop_s: float = 0.001) -> Prediction:
    """A ring whose stages take so long per prompt position."""
    stages = tuple(
        StageFigures(
            node=f"n{i}", start=i, stop=i + 1, decode_s=10 * seconds, hop_s=hop_s, prefill_s=seconds * 100,
            weight_bytes=0, kv_bytes=0,
        )
        for i, seconds in enumerate(position_s)
    )  # fmt: skip
    return Prediction(
        stages=stages, nodes=(), decode_s=0.0, bottleneck_s=0.0, bottleneck_node="n0", ttft_s=0.0, prompt_tokens=100,
        tokens_per_s=0.0, tokens_per_s_many=0.0,
    )  # fmt: skip


def moved(
    positions: int, *transfers: Transfer, limit_s: float = 60.0, answer_tokens: int = 0, **rates: float
) -> Migration:
    return estimate(
        transfers, positions, rates, ring(0.001, 0.002), chunk_tokens=32, limit_s=limit_s, answer_tokens=answer_tokens
    )


def test_the_busiest_link_decides_how_long_copying_takes() -> None:
    found = moved(100, Transfer("a", "c", 1000), Transfer("b", "c", 2000), a=1e6, b=1e6, c=2e6)
    assert found.copy_bytes == 300_000
    assert found.copy_s == pytest.approx(0.2), "b sends 200 kB; c takes 300 kB, but twice as quickly"
    assert found.copy_lost_s == pytest.approx(SLOWDOWN * 0.2 + HOLD_S)


def test_states_of_all_requests_travel_while_everything_stands_still() -> None:
    transfer = Transfer("a", "b", 1000, state_bytes=50_000)
    found = estimate([transfer], 100, {"a": 1e6}, ring(0.001, 0.002), chunk_tokens=32, limit_s=60.0, requests=4)
    assert found.copy_bytes == 300_000
    assert found.copy_s == pytest.approx(0.3)
    assert found.copy_lost_s == pytest.approx(SLOWDOWN * 0.1 + HOLD_S + 0.2)


def test_an_unknown_link_is_slow() -> None:
    assert moved(100, Transfer("a", "b", 1000)).copy_s == pytest.approx(100_000 / DEFAULT_RATE_BYTES_PER_S)


def test_computing_again_is_a_flow_shop() -> None:
    assert moved(100).prefill_lost_s == pytest.approx(32 * 0.003 + 0.002 + 0.002 * 68)
    assert moved(10).prefill_lost_s == pytest.approx(10 * 0.003 + 0.002)


def test_answers_are_computed_again_one_token_at_a_time() -> None:
    assert moved(150, answer_tokens=50).prefill_lost_s == pytest.approx(moved(100).prefill_lost_s + 50 * 0.02)


def test_the_cheaper_way_is_taken() -> None:
    slow, quick = moved(1000, Transfer("a", "b", 10_000), a=2e6), moved(1000, Transfer("a", "b", 10_000), a=1e9, b=1e9)
    assert (slow.copies, slow.lost_s) == (False, slow.prefill_lost_s)
    assert (quick.copies, quick.lost_s) == (True, quick.copy_lost_s)


def test_copying_that_takes_too_long_is_not_begun() -> None:
    transfer = Transfer("a", "b", 10_000)
    assert moved(1000, transfer, a=1e7, b=1e7, limit_s=1.1).copies
    assert not moved(1000, transfer, a=1e7, b=1e7, limit_s=0.9).copies


def test_where_no_rows_travel_nothing_is_computed_again() -> None:
    assert moved(100).copies
    assert moved(100).copy_bytes == 0


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.floats(1e5, 1e9))
def test_more_positions_never_take_less(positions: int, more: int, rate: float) -> None:
    few, many = (moved(p, Transfer("a", "b", 1000), a=rate, b=rate) for p in (positions, positions + more))
    assert few.copy_s <= many.copy_s
    assert few.prefill_lost_s <= many.prefill_lost_s
    assert few.lost_s == min(few.copy_lost_s, few.prefill_lost_s) or few.copy_s > 60.0
