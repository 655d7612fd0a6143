"""A span of time as people say it, in one unit (pure)."""

from __future__ import annotations

_UNITS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))


def rough_span(seconds: float) -> str:
    """Such as "3 min": in the largest unit of which there is at least one, rounded."""
    for size_s, unit in _UNITS:
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
