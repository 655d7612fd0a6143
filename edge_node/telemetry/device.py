"""The device that a node runs on: memory, CPU, temperature. Never on the token path, never fatal."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from edge_node.telemetry import control_group

_COLDEST_C = -50
_HOTTEST_C = 200
_LEFT_SHARE = 0.25
LEFT_BYTES = 100_000_000
"""What a node leaves of the memory that there is: with less, its system is short of it."""


def memory_bytes() -> tuple[int, int]:
    """Resident memory of this process now and at its largest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    fields = _colon_fields(Path("/proc/self/status"))
    if "VmRSS" in fields:
        return fields["VmRSS"], max(fields.get("VmHWM", 0), fields["VmRSS"])
    return peak, peak


def resident_bytes() -> int:
    """Resident memory of this process; read in microseconds, to be asked for after each run."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return memory_bytes()[0]


def available_bytes() -> int:
    """Memory that could still be given without swapping: by the system, or by a control group that has less."""
    of_system = _colon_fields(Path("/proc/meminfo")).get("MemAvailable", available_of_unknown_bytes())
    of_groups = control_group.available_bytes()
    return of_system if of_groups is None else min(of_system, of_groups)


def available_of_unknown_bytes() -> int:
    """What is taken for available where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def memory_budget_bytes(limit_bytes: int | None, resident_bytes: int, available: int) -> int:
    """Memory the node may use in all: what it has and most of what could be given, but no more than the limit."""
    there = resident_bytes + max(0, available - max(int(_LEFT_SHARE * available), LEFT_BYTES))
    return there if limit_bytes is None else min(limit_bytes, there)


def _colon_fields(path: Path) -> dict[str, int]:
    """Fields of a /proc file given in kB, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.rstrip().endswith(" kB"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def temperature_c() -> float | None:
    """The hottest readable thermal zone."""
    readings: list[float | None] = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            readings.append(plausible(int(zone.read_text()) / 1000))
        except (OSError, ValueError):
            continue
    return max((reading for reading in readings if reading is not None), default=None)


class CpuMeter:
    """CPU use of this process between two readings."""

    def __init__(self) -> None:
        self._last = (time.monotonic(), time.process_time())

    def percent(self) -> float:
        """Per cent of one core since the last call."""
        wall_s, cpu_s = time.monotonic(), time.process_time()
        last_wall_s, last_cpu_s = self._last
        self._last = (wall_s, cpu_s)
        return 100 * (cpu_s - last_cpu_s) / max(wall_s - last_wall_s, 1e-3)


def plausible(reading_c: float) -> float | None:
    """A temperature that some device may have; None for what a broken sensor says."""
    return reading_c if _COLDEST_C < reading_c < _HOTTEST_C else None
