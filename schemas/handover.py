"""Which stage of a new ring goes on from which stage of the old one, and whose KV rows have to travel (pure).

The orchestrator and the nodes work this out from the two rings alone, each for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.units import Units, blocks_of, overlap


class Held(Units, Protocol):
    """Units [start, stop) held by a node."""

    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True)
class KvCopy:
    """KV rows of units [start, stop) travel from a stage of the old ring to one of the new."""

    source: int
    target: int
    start: int
    stop: int


def heirs(old: Sequence[Held], new: Sequence[Held]) -> dict[int, int]:
    """Find the old stage that each new stage of the same node goes on from: its slots and the rows both hold stay.

    Returns new stage to old stage. An old stage has one heir at most: of a node's stages those that share most units,
    then those that come first.
    """
    pairs = sorted(
        (-len(overlap(before, after)), source, target)
        for source, before in enumerate(old)
        for target, after in enumerate(new)
        if before.node == after.node
    )
    found: dict[int, int] = {}
    for _, source, target in pairs:
        if target not in found and source not in found.values():
            found[target] = source
    return found


def kv_copies(old: Sequence[Held], new: Sequence[Held], unit_count: int) -> tuple[KvCopy, ...]:
    """The copies to be made, of all decoder blocks (units 1 to ``unit_count`` - 2) that are not inherited."""
    inherited = heirs(old, new)
    copies: list[KvCopy] = []
    for target, after in enumerate(new):
        for source, before in enumerate(old):
            shared = blocks_of(overlap(before, after), unit_count)
            if shared and inherited.get(target) != source:
                copies.append(KvCopy(source, target, shared.start, shared.stop))
    return tuple(copies)


def unchanged(old: Sequence[Held], new: Sequence[Held]) -> Mapping[int, int]:
    """The new stages whose node and units are those of an old one, new to old: nothing has to be loaded."""
    return {target: source for target, source in heirs(old, new).items() if old[source] == new[target]}
