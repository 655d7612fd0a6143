"""Progress of long steps: the caller passes a function, steps call it as often as they like."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: step is "download", "read", "convert" or "split"; total 0 means unknown."""


def silent(step: str, done: int, total: int) -> None:
    """The progress function of a caller who does not care."""
