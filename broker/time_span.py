"""Times such as 30s, 15m, 2h or 1d, as people write and read them."""

from __future__ import annotations

import re

import click

_SPAN = re.compile(r"(\d{1,4})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S = 30 * 86_400
"""Longer ones nobody means."""


def seconds_of(_context: click.Context, parameter: click.Parameter, value: str) -> float:
    """The seconds that an option or an argument means."""
    found = _SPAN.fullmatch(value)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= LONGEST_S:
        raise click.BadParameter("write a time such as 30s, 15m, 2h or 1d, 30d at most", param=parameter)
    return seconds


def span_text(seconds: float) -> str:
    """Whole seconds in the largest unit that has no rest."""
    unit = next(letter for letter in "dhms" if seconds % _SECONDS[letter] == 0)
    return f"{seconds // _SECONDS[unit]:.0f} {unit}"
