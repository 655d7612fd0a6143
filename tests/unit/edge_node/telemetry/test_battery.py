"""The battery, as files of the kernel and commands of Termux tell it."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from edge_node.telemetry import battery
from edge_node.telemetry.system_command import NoReading
from tests.support.polling import DEADLINE_S


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/sys comes from a folder, and commands of its own are found first."""

    def redirected(path: str) -> Path:
        return tmp_path / path.removeprefix("/")

    monkeypatch.setattr(battery, "Path", redirected)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def write_battery(root: Path, capacity: str, status: str) -> None:
    write(root, "sys/class/power_supply/AC/type", "Mains\n")
    write(root, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(root, "sys/class/power_supply/BAT0/capacity", capacity)
    write(root, "sys/class/power_supply/BAT0/status", status)


@pytest.mark.parametrize(
    ("capacity", "status", "expected"),
    [
        ("81\n", "Discharging\n", battery.Battery(81.0, charging=False)),
        ("100", "Full", battery.Battery(100.0, charging=True)),
        ("104", "Charging", battery.Battery(100.0, charging=True)),
        ("unknown", "Charging", None),
    ],
)
def test_battery_of_the_kernel(fake_root: Path, capacity: str, status: str, expected: battery.Battery | None) -> None:
    write_battery(fake_root, capacity, status)
    assert battery.kernel_battery() == expected
    write_battery(fake_root, "5", "Discharging")
    assert battery.kernel_battery() == battery.Battery(5.0, charging=False)


@pytest.mark.parametrize(("temp", "expected"), [("412\n", 41.2), ("-2740\n", None), ("warm", None)])
def test_temperature_of_the_battery(fake_root: Path, temp: str, expected: float | None) -> None:
    write_battery(fake_root, "50", "Discharging")
    write(fake_root, "sys/class/power_supply/BAT0/temp", temp)
    assert battery.kernel_battery() == battery.Battery(50.0, charging=False, temperature_c=expected)


def test_no_battery(fake_root: Path) -> None:
    write(fake_root, "sys/class/power_supply/AC/type", "Mains\n")
    assert battery.kernel_battery() is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo \'{"percentage": 64, "status": "DISCHARGING"}\'', battery.Battery(64.0, charging=False)),
        (
            'echo \'{"percentage": 64, "status": "CHARGING", "temperature": 45.5}\'',
            battery.Battery(64.0, charging=True, temperature_c=45.5),
        ),
        (
            'echo \'{"percentage": 64, "status": "CHARGING", "temperature": 4550}\'',
            battery.Battery(64.0, charging=True),
        ),
        ("echo no; exit 1", None),
        ("echo '{}'", None),
        ("echo '[]'", None),
        ("sleep 600 & echo no child of a script holds up the reader; exec sleep 600", None),
    ],
)
def test_battery_of_termux(
    fake_root: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: battery.Battery | None
) -> None:
    monkeypatch.setattr(battery, "TERMUX_TIMEOUT_S", 0.5)
    command = fake_root / "bin" / "termux-battery-status"
    write(fake_root, "bin/termux-battery-status", f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    if expected is None:
        with pytest.raises(NoReading):
            battery.termux_battery()
    else:
        assert battery.termux_battery() == expected


@pytest.mark.parametrize("says", ["no", None])
def test_the_kernel_is_asked_where_termux_tells_nothing(fake_root: Path, says: str | None) -> None:
    write_battery(fake_root, "70", "Discharging")
    if says is not None:
        write(fake_root, "bin/termux-battery-status", f"#!/bin/sh\necho {says}\n")
        (fake_root / "bin" / "termux-battery-status").chmod(0o755)
    with closing(battery.BatteryMonitor()) as monitor:
        end_s = time.monotonic() + DEADLINE_S
        while monitor.read() is None and time.monotonic() < end_s:
            time.sleep(0.01)
        assert monitor.read() == battery.Battery(70.0, charging=False)
