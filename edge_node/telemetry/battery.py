"""The battery of the device, from the kernel or from Termux, either of which can hang. Never on the token path."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from edge_node.telemetry.device import plausible
from edge_node.telemetry.reading import Reading
from edge_node.telemetry.system_command import NoReading, output_of

TERMUX_COMMAND = "termux-battery-status"
TERMUX_TIMEOUT_S = 10.0
TERMUX_INTERVAL_S = 30.0
KERNEL_INTERVAL_S = 2.0
_PLUGGED_IN = ("charging", "full")


@dataclass(frozen=True, slots=True)
class Battery:
    """Charge, whether it is being charged, and its temperature where that is known."""

    percent: float
    charging: bool
    temperature_c: float | None = None


class BatteryMonitor:
    """Reads the battery again and again, from the kernel or by Termux's command."""

    def __init__(self, interval_s: float | None = None) -> None:
        """``interval_s``: between two readings, if not as usual."""
        by_termux = shutil.which(TERMUX_COMMAND) is not None
        usual_s = TERMUX_INTERVAL_S if by_termux else KERNEL_INTERVAL_S
        self._reading: Reading[Battery | None] = Reading(
            _termux_or_kernel_battery if by_termux else kernel_battery,
            None,
            name="battery",
            every_s=usual_s if interval_s is None else interval_s,
        )

    def read(self) -> Battery | None:
        """The last known state; None where there is no battery, or none is known yet."""
        return self._reading.value

    def close(self) -> None:
        """Stop reading the battery."""
        self._reading.close()


def _termux_or_kernel_battery() -> Battery | None:
    try:
        return termux_battery()
    except NoReading:
        if (found := kernel_battery()) is None:
            raise  # the last known state stays
        return found


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
