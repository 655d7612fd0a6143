"""Types of command line options that the programs share."""

from __future__ import annotations

import math
from typing import Any

import click


class IntOrWord(click.IntRange):
    """A whole number within limits, or a word in its place."""

    def __init__(self, word: str, least: int, most: int) -> None:
        """``word`` stands for no number."""
        super().__init__(least, most)
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; None for the word."""
        return None if value in (None, self._word) else super().convert(value, param, ctx)


class FiniteRange(click.FloatRange):
    """A number within limits. ``nan`` is none, though it is neither above nor below any limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number; whatever is none, or not within the limits, is a wrong option."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number
