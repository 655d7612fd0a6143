"""Progress of long steps: the caller passes a function, steps call it as often as they like."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: step is one of `STEPS`; total 0 means unknown."""
STEPS = {
    "download": "bytes",
    "read": "bytes",
    "convert": "layers",
    "save": "bytes",
    "quantise": "matrices",
    "split": "bytes",
    "reference": "layers",
    "compare": "units",
    "build": "bytes",
    "structure": "units",
    "quality": "units",
    "check": "bytes",
    "export": "bytes",
    "unpack": "bytes",
    "verify": "runs",
    "runs": "runs",
    "wire": "runs",
}
"""What each is counted in."""


def silent(step: str, done: int, total: int) -> None:
    """The progress function of a caller who does not care."""
