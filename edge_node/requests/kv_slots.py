"""The KV slots of a stage: in use, free, or parked with the rows of a request that ended.

A parked slot lets a later request that begins alike skip what they share (prefix reuse). Slots are parked as long as
nobody needs them; the one parked longest goes first. Every stage decides for itself: where one no longer has the
prefix, the position rule finds the gap and stage 0 computes from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.position_rule import PositionRule


@dataclass(frozen=True, slots=True)
class Grant:
    """A slot for a request: its first ``valid_length`` positions hold the prefix.

    ``copy_from`` is the slot to copy them from; None where they are in place already. ``states``: where it has folded
    states of them, if the stage has any; ``copies``: which of these is to be copied to which.
    """

    slot: int
    valid_length: int = 0
    copy_from: int | None = None
    states: Checkpoints | None = None
    copies: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Parked:
    slot: int
    valid_length: int
    states: Checkpoints | None


class SlotTable:
    """Who has which slot. In a live move the old stage and its heir share the table, as they share the rows."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots - 1, -1, -1))
        self._parked: dict[int, _Parked] = {}
        self._used: dict[int, PositionRule] = {}

    def take(self, prefix_request: int | None, prefix_tokens: int) -> Grant | None:
        """A slot for a new request, with the positions it shares with an earlier one where they are still here.

        The earlier request's slot is handed over if it is used up whole (the conversation goes on) or no other slot is
        to be had; else its rows are copied and stay for others that begin alike. None when every slot is in use.
        """
        parked = self._parked.pop(prefix_request, None) if prefix_request is not None else None
        if parked is None:
            slot = self._vacate()
            return None if slot is None else Grant(slot)
        length, states = min(parked.valid_length, prefix_tokens), parked.states
        if states:
            length = states.before(length)  # a request goes on where there is a state
        slot = None if length == parked.valid_length else self._vacate()
        if slot is None:
            return Grant(parked.slot, length, states=states)
        assert prefix_request is not None
        self._parked[prefix_request] = parked
        copy = states.copy_at(length) if states else None
        if copy is None:
            return Grant(slot, length, copy_from=parked.slot)
        return Grant(slot, length, parked.slot, Checkpoints({length: 0}), (copy, 0))

    def _vacate(self) -> int | None:
        if self._free:
            return self._free.pop()
        if self._parked:
            return self._parked.pop(next(iter(self._parked))).slot
        return None

    def use(self, slot: int, rule: PositionRule) -> None:
        """Note whose a taken slot is: the request's ``rule`` knows how many of its rows are valid."""
        self._used[slot] = rule

    def lengths(self) -> dict[int, int]:
        """Slot to valid length, for the slots that hold something."""
        lengths = {parked.slot: parked.valid_length for parked in self._parked.values()}
        lengths.update((slot, rule.valid_length) for slot, rule in self._used.items())
        return lengths

    def park(self, request: int, slot: int, valid_length: int, states: Checkpoints | None = None) -> None:
        """Keep the rows of a request that ended until its slot is needed."""
        self._used.pop(slot, None)
        before = self._parked.pop(request, None)
        if before is not None:
            self._free.append(before.slot)
        if valid_length > 0:
            self._parked[request] = _Parked(slot, valid_length, states)
        else:
            self._free.append(slot)

    def forget_parked(self) -> tuple[int, ...]:
        """Forget the rows of ended requests: they are of no use any more, or their memory is needed.

        Returns the slots that hold nothing then.
        """
        self._free.extend(parked.slot for parked in self._parked.values())
        self._parked.clear()
        return tuple(self._free)
