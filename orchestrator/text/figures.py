"""Sizes and ages for people, times for JSON."""

from __future__ import annotations

from schemas.limits import MB

LONG_AGES = (("days", 86_400), ("hours", 3_600), ("minutes", 60))
SHORT_AGES = (("h", 3_600), ("min", 60))


def size_text(size_bytes: int) -> str:
    """Bytes in the unit that suits them: 3.1 GB, 940 MB, 12 kB."""
    for unit, factor in (("GB", 10**9), ("MB", MB), ("kB", 10**3)):
        if abs(size_bytes) >= factor:
            value = size_bytes / factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{size_bytes} bytes"


def megabytes(size_bytes: float, digits: int = 0) -> str:
    """Bytes in MB."""
    return f"{size_bytes / MB:,.{digits}f} MB"


def progress_text(done_bytes: float, total_bytes: float) -> str:
    """How much of how much: 12 of 34 MB."""
    return f"{megabytes(done_bytes).removesuffix(' MB')} of {megabytes(total_bytes)}"


def age_text(age_s: float, units: tuple[tuple[str, int], ...] = LONG_AGES) -> str:
    """An age in the largest of the units of which there are two, or else in seconds."""
    for name, seconds in units:
        if age_s >= 2 * seconds:
            return f"{age_s / seconds:.0f} {name}"
    return f"{age_s:.0f} s"


def as_ms(seconds: float) -> float:
    """Seconds as milliseconds, rounded to the microsecond, for JSON."""
    return round(seconds * 1e3, 3)
