"""The units of a model, counted from 0: the embedding, the decoder blocks, the head."""

from __future__ import annotations

from typing import Final, Protocol

from schemas.parts import UnitKind

EMBED: Final[UnitKind] = "embed"
BLOCK: Final[UnitKind] = "block"
HEAD: Final[UnitKind] = "head"
KINDS: Final = (EMBED, BLOCK, HEAD)


class Units(Protocol):
    """Units [start, stop)."""

    @property
    def start(self) -> int: ...

    @property
    def stop(self) -> int: ...


def kinds_of(unit_count: int) -> tuple[UnitKind, ...]:
    """The kinds of a model's units."""
    return (EMBED, *(BLOCK,) * (unit_count - 2), HEAD)


def overlap(one: Units, other: Units) -> range:
    """The units that two ranges share."""
    return range(max(one.start, other.start), min(one.stop, other.stop))


def blocks_of(units: Units, unit_count: int) -> range:
    """The decoder blocks among some units of a model of ``unit_count`` units."""
    return range(max(units.start, 1), min(units.stop, unit_count - 1))


def has_layer(units: Units, layer: int) -> bool:
    """Is a decoder block, counted from 0, among these units?"""
    return units.start <= layer + 1 < units.stop
