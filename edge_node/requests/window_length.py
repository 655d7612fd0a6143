"""How long a window of guesses is to be, by what one more row makes a run of this stage longer (pure)."""

from __future__ import annotations

from schemas.ewma import ewma

_WEIGHT = 0.15
_COST_PER_ROW = 0.25
"""What one row more adds to a run, as a share of a run of one, until that is measured."""


class WindowLength:
    """Of a stage: as many guesses as make a run take twice as long.

    A run costs something that does not depend on its rows: weights are read once. Where a row adds little to that, long
    windows verify many guesses for the price of few. Where it adds much, they gain nothing, since windows go one behind
    the other: they only come back later, and more is computed in vain where a guess is wrong. In simulations of rings
    (`docs/decisions/0047-several-windows-in-flight.md`) this length is the best or near it, from 0.03 to 0.8 a row.
    """

    def __init__(self) -> None:
        self._per_row: float | None = None

    def ran(self, positions: int, took_s: float, one_s: float | None) -> None:
        """Take in how long a run of so many positions of one request took; ``one_s``: the last run of one."""
        if positions > 1 and one_s:
            per_row = (took_s / one_s - 1) / (positions - 1)
            # No window is shorter for a row that costs more than a run.
            self._per_row = ewma(self._per_row, min(1.0, max(0.0, per_row)), _WEIGHT)

    def positions(self, chain: int, *, most: int, windows: int) -> int:
        """The most positions of a window.

        Args:
            chain: the newest token and the guesses behind it.
            most: positions in one run.
            windows: runs that may be on their way: a chain that would need more is cut into longer ones.
        """
        per_row = _COST_PER_ROW if self._per_row is None else self._per_row
        guesses = round(1 / per_row) if per_row * most > 1 else most
        return min(most, max(1 + guesses, -(-chain // windows)))
