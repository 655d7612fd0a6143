"""What nodes are reckoned to take, against what single segments were found to take."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.replanning.memory_model import (
    UNKNOWN,
    block_bytes,
    embedding_bytes,
    head_bytes,
    rule_of,
    spread_bytes,
    touched_bytes,
)
from schemas.limits import MB
from tests.support.scripted_nodes import make_manifest

MANIFEST = make_manifest()


@pytest.mark.parametrize(
    ("precision", "disk_mb", "weights", "loading_mb", "serving_mb"),
    [
        ("int4", 2.453, 3.852e6, 3.71, 3.28),  # SmolLM2
        ("int4", 3.805, 6.031e6, 5.91, 5.01),  # Gemma 3 270M
        ("int4", 9.989, 15.896e6, 14.36, 12.23),  # Qwen2.5-Coder 0.5B
        ("mixed", 5.459, 5.612e6, 8.45, 7.74),
        ("mixed", 15.134, 14.909e6, 21.84, 20.57),
        ("fp32", 14.164, 3.539e6, 14.28, 14.27),
        ("fp16", 11.16, 5.571e6, 23.1, 22.5),
    ],
)
def test_a_block_takes_what_it_was_found_to_take(
    precision: str, disk_mb: float, weights: float, loading_mb: float, serving_mb: float
) -> None:
    """Slopes over all blocks of one segment."""
    unit = replace(MANIFEST.units[1], flops_per_token=round(2 * weights))
    planned = block_bytes(replace(MANIFEST, precision=precision), unit, round(disk_mb * MB))
    assert 0.85 * planned.loading <= loading_mb * MB <= planned.loading
    assert 0.85 * planned.serving <= serving_mb * MB <= planned.serving


@pytest.mark.parametrize(
    ("precision", "vocabulary", "disk_mb", "weights", "loading_mb"),
    [
        ("int4", 49_152, 31.0, 29.2e6, 46.6),
        ("mixed", 262_144, 183.0, 173.0e6, 265.4),
        ("mixed", 151_936, 156.2, 140.4e6, 212.4),
        ("fp16", 262_144, 335.5, 167.8e6, 1341.2),
        ("fp32", 49_152, 113.2, 28.3e6, 225.5),
    ],
)
def test_a_head_takes_what_it_was_found_to_take(
    precision: str, vocabulary: int, disk_mb: float, weights: float, loading_mb: float
) -> None:
    units = (*MANIFEST.units[:-1], replace(MANIFEST.units[-1], flops_per_token=round(2 * weights)))
    manifest = replace(MANIFEST, precision=precision, vocab_size=vocabulary, units=units)
    planned = head_bytes(manifest, round(disk_mb * MB), slots=1)
    assert 0.85 * planned.loading <= loading_mb * MB <= planned.loading
    more = head_bytes(manifest, round(disk_mb * MB), slots=3).serving - planned.serving
    assert more == 2 * 4 * vocabulary, "logits of each request"


def test_tables_become_resident_row_by_row_but_columns_all_at_once() -> None:
    sizes = [embedding_bytes(MANIFEST, 180 * MB, tied=True, positions=tokens) for tokens in (1, 512, 1_000_000)]
    assert sizes[0] < 0.2 * MB
    assert 60 * MB < sizes[1] < 90 * MB
    assert sizes[2] == 180 * MB
    floats = replace(MANIFEST, precision="fp16")
    assert embedding_bytes(floats, 180 * MB, tied=True, positions=1) == 180 * MB
    assert embedding_bytes(floats, 180 * MB, tied=False, positions=1) < 0.2 * MB
    assert touched_bytes(0, 10, (1.0,)) == 0


def test_what_is_unknown_is_planned_with_caution() -> None:
    assert rule_of(replace(MANIFEST, precision="int3")) is UNKNOWN
    assert rule_of(replace(MANIFEST, profile="exact")) != rule_of(MANIFEST)
    assert rule_of(replace(MANIFEST, profile="steady")) == rule_of(MANIFEST), "the graphs are the same"


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8))
def test_no_neighbours_take_more_than_their_mean_and_the_spread(sizes: list[int]) -> None:
    mean, spread = sum(sizes) / len(sizes), spread_bytes(sizes)
    excess = [
        sum(sizes[start:stop]) - (stop - start) * mean
        for start, stop in itertools.combinations(range(len(sizes) + 1), 2)
    ]
    assert max(0, *excess) <= spread + 1e-6
    assert spread < max(0, *excess) + 1 + 1e-6
