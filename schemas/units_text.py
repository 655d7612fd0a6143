"""Names of units for people."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.units import BLOCK, kinds_of


def units_text(kinds: Sequence[str], start: int, stop: int) -> str:
    """Units [start, stop) of a chain of these kinds: "embed, blocks 0-9, head" (decoder blocks are counted from 0)."""
    first_block = kinds.index(BLOCK) if BLOCK in kinds else 0
    blocks = [unit - first_block for unit in range(start, stop) if kinds[unit] == BLOCK]
    parts = [kinds[unit] for unit in range(start, min(stop, first_block))]
    if blocks:
        parts.append(f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}")
    parts += [kinds[unit] for unit in range(max(start, first_block), stop) if kinds[unit] != BLOCK]
    return ", ".join(parts)


def describe_units(start: int, stop: int, unit_count: int) -> str:
    """Units [start, stop) of a model for people."""
    return units_text(kinds_of(unit_count), start, stop)
