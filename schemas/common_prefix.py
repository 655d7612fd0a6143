"""How far two sequences of tokens are the same."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences of one type have in common at their beginning."""
    if one == other[: len(one)]:
        return len(one)
    return next((at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), len(other))
