"""Where a text has a state that all positions before are folded into (pure).

Such a state can't go back by a position, so a slot keeps copies of it as it was at a few: where the last run began,
where it ended, and where the prompt ended, which is where another request may go on from. Position 0 needs none.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_node.work import StateCopies
from schemas.segment_tensors import STATE_COPIES


class Checkpoints:
    """The positions at which one slot has its state, each with the number of the copy."""

    def __init__(self, copies: Mapping[int, int] | None = None) -> None:
        self._copies = dict(copies or {})

    def has(self, position: int) -> bool:
        """Can a run begin at a position?"""
        return position == 0 or position in self._copies

    def before(self, position: int) -> int:
        """The last position up to this one at which a run can begin."""
        return max((known for known in self._copies if known <= position), default=0)

    def copy_at(self, position: int) -> int | None:
        """The copy with the state at a position; None if there is none."""
        return self._copies.get(position)

    def includes(self, other: Checkpoints) -> bool:
        """Are all copies of another one here, each at the same position?"""
        return other._copies.items() <= self._copies.items()

    def forget_behind(self, position: int) -> None:
        """Forget the states at later positions: they may be of another text."""
        self._copies = {known: copy for known, copy in self._copies.items() if known <= position}

    def run(self, begin: int, end: int, lasting: int) -> StateCopies:
        """Note a run over positions [begin, end), which begins where there is a state.

        Args:
            lasting: the state at this position is kept as long as the text does not go back behind it.
        """
        self.forget_behind(begin)
        free = next((copy for copy in range(STATE_COPIES) if copy not in self._copies.values()), None)
        if free is None:
            free = self._copies.pop(min(known for known in self._copies if known not in (begin, lasting)))
        source = self._copies.get(begin)
        self._copies[end] = free
        return StateCopies(source, free)
