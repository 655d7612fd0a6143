"""The device that a node runs on: memory, CPU, battery, temperature. Never on the token path, never fatal."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_BATTERY_TIMEOUT_S = 10.0
_BATTERY_INTERVAL_S = 30.0
_PLUGGED_IN = ("charging", "full")
_COLDEST_C = -50
_HOTTEST_C = 200
_MEMORY_SHARE = 0.75
_STORAGE_SHARE = 0.5


def memory_bytes() -> tuple[int, int]:
    """Resident memory of this process now and at its largest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    fields = _colon_fields(Path("/proc/self/status"))
    if "VmRSS" in fields:
        return fields["VmRSS"], max(fields.get("VmHWM", 0), fields["VmRSS"])
    return peak, peak


def forget_peak() -> None:
    """Count the largest resident memory from now on, where the system lets a process do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int:
    """Memory the system could still give without swapping."""
    available = _colon_fields(Path("/proc/meminfo")).get("MemAvailable")
    if available is not None:
        return available
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def memory_budget_bytes(limit_bytes: int | None) -> int:
    """Memory the node may use in all: the limit, or its own plus most of what the system could give."""
    if limit_bytes is not None:
        return limit_bytes
    return memory_bytes()[0] + int(_MEMORY_SHARE * available_bytes())


def storage_budget_bytes(directory: Path, limit_bytes: int | None) -> int:
    """Room for the blobs of a directory: the limit, or what they take already plus half of the free disk."""
    if limit_bytes is not None:
        return limit_bytes
    stored_bytes = sum(path.stat().st_size for path in directory.iterdir())
    return stored_bytes + int(_STORAGE_SHARE * shutil.disk_usage(directory).free)


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
            readings.append(_plausible(int(zone.read_text()) / 1000))
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


@dataclass(frozen=True, slots=True)
class Battery:
    """Charge, whether it is being charged, and its temperature where that is known."""

    percent: float
    charging: bool
    temperature_c: float | None = None


class BatteryMonitor:
    """Reads the battery, from the kernel or from Termux, whose command can hang: so a thread does, twice a minute."""

    def __init__(self) -> None:
        self._battery: Battery | None = _kernel_battery()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if shutil.which("termux-battery-status"):
            self._thread = threading.Thread(target=self._ask_termux, name="battery", daemon=True)
            self._thread.start()

    def read(self) -> Battery | None:
        """The last known state; None where there is no battery."""
        if self._thread is None:
            self._battery = _kernel_battery()
        return self._battery

    def close(self) -> None:
        """Stop reading the battery."""
        self._stop.set()

    def _ask_termux(self) -> None:
        while not self._stop.is_set():
            try:
                answer = subprocess.run(
                    ["termux-battery-status"], capture_output=True, timeout=_BATTERY_TIMEOUT_S, check=True
                )
                status = json.loads(answer.stdout)
                charging = str(status["status"]).lower() in _PLUGGED_IN
                temperature = status.get("temperature")
                self._battery = Battery(
                    min(max(float(status["percentage"]), 0.0), 100.0),
                    charging,
                    None if temperature is None else _plausible(float(temperature)),
                )
            except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
                pass  # keep the last known state
            self._stop.wait(_BATTERY_INTERVAL_S)


def _kernel_battery() -> Battery | None:
    for supply in Path("/sys/class/power_supply").glob("*"):
        try:
            if (supply / "type").read_text().strip() != "Battery":
                continue
            percent = float((supply / "capacity").read_text())
            charging = (supply / "status").read_text().strip().lower() in _PLUGGED_IN
            return Battery(min(max(percent, 0.0), 100.0), charging, _kernel_battery_c(supply))
        except (OSError, ValueError):
            continue
    return None


def _kernel_battery_c(supply: Path) -> float | None:
    try:
        return _plausible(int((supply / "temp").read_text()) / 10)
    except (OSError, ValueError):
        return None


def _plausible(reading_c: float) -> float | None:
    return reading_c if _COLDEST_C < reading_c < _HOTTEST_C else None
