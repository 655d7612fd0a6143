"""The battery of the device, from the kernel or from Termux, whose command can hang. Never on the token path."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from edge_node.telemetry.device import plausible
from edge_node.telemetry.system_command import NoReading, output_of

TERMUX_COMMAND = "termux-battery-status"
TERMUX_TIMEOUT_S = 10.0
_INTERVAL_S = 30.0
_PLUGGED_IN = ("charging", "full")


@dataclass(frozen=True, slots=True)
class Battery:
    """Charge, whether it is being charged, and its temperature where that is known."""

    percent: float
    charging: bool
    temperature_c: float | None = None


class BatteryMonitor:
    """Reads the battery, from the kernel or from Termux, whose command can hang: so a thread does, twice a minute."""

    def __init__(self, interval_s: float | None = None) -> None:
        """``interval_s``: between two questions to Termux, if not as usual."""
        self._interval_s = _INTERVAL_S if interval_s is None else interval_s
        self._battery: Battery | None = kernel_battery()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if shutil.which(TERMUX_COMMAND):
            self._thread = threading.Thread(target=self._ask_termux, name="battery", daemon=True)
            self._thread.start()

    def read(self) -> Battery | None:
        """The last known state; None where there is no battery."""
        if self._thread is None:
            self._battery = kernel_battery()
        return self._battery

    def close(self) -> None:
        """Stop reading the battery."""
        self._stop.set()

    def _ask_termux(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(NoReading):  # else the last known state stays
                self._battery = termux_battery()
            self._stop.wait(self._interval_s)


def termux_battery() -> Battery:
    """What Termux says.

    Raises:
        NoReading: it says nothing, or nothing that can be used.
    """
    said = output_of(TERMUX_COMMAND, timeout_s=TERMUX_TIMEOUT_S)
    try:
        status = json.loads(said)
        # A battery that is kept from being full is on a charger and does not charge.
        is_plugged = str(status.get("plugged", "")).upper().startswith("PLUGGED")
        charging = is_plugged or str(status["status"]).lower() in _PLUGGED_IN
        temperature = status.get("temperature")
        return Battery(
            min(max(float(status["percentage"]), 0.0), 100.0),
            charging,
            None if temperature is None else plausible(float(temperature)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NoReading("what it says is no state of a battery") from error


def kernel_battery() -> Battery | None:
    """What the kernel says; None where there is no battery."""
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
        return plausible(int((supply / "temp").read_text()) / 10)
    except (OSError, ValueError):
        return None
