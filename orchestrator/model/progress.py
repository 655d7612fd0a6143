"""Progress of long steps: the caller passes a function, steps call it as often as they like."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: step is "download", "read", "convert", "save", "split", "check" or "verify"; total 0
means unknown. All but "convert" (layers) and "verify" are in bytes."""


def silent(step: str, done: int, total: int) -> None:
    """The progress function of a caller who does not care."""
