"""What a node says about itself: real figures of this process, and files of other machines."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from edge_node.telemetry import device
from tests.support.polling import DEADLINE_S

MEBI = 1 << 20


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/proc and /sys come from a folder."""

    def redirected(path: str) -> Path:
        return tmp_path / path.removeprefix("/")

    monkeypatch.setattr(device, "Path", redirected)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def write_battery(root: Path, capacity: str, status: str) -> None:
    write(root, "sys/class/power_supply/AC/type", "Mains\n")
    write(root, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(root, "sys/class/power_supply/BAT0/capacity", capacity)
    write(root, "sys/class/power_supply/BAT0/status", status)


def test_memory_of_this_process() -> None:
    rss_bytes, peak_bytes = device.memory_bytes()
    assert MEBI < rss_bytes <= peak_bytes
    ballast = bytearray(os.urandom(1)) * (64 * MEBI)
    grown_bytes, _ = device.memory_bytes()
    assert grown_bytes > rss_bytes + 48 * MEBI
    assert len(ballast) == 64 * MEBI
    assert device.available_bytes() > 0
    if sys.platform == "linux":
        del ballast
        device.forget_peak()
        assert device.memory_bytes()[1] < grown_bytes - 48 * MEBI


def test_memory_without_proc(fake_root: Path) -> None:
    rss_bytes, peak_bytes = device.memory_bytes()
    assert rss_bytes == peak_bytes > MEBI
    assert device.available_bytes() > MEBI


def test_memory_fields(fake_root: Path) -> None:
    write(fake_root, "proc/self/status", "Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t1\n")
    write(fake_root, "proc/meminfo", "MemTotal: 9 kB\nMemAvailable: 3 kB\nHugePages_Total: 0\n")
    assert device.memory_bytes() == (MEBI, 2 * MEBI)
    assert device.available_bytes() == 3072


def test_cpu_share_of_a_busy_thread() -> None:
    meter = device.CpuMeter()
    end_s = time.process_time() + 0.05
    while time.process_time() < end_s:
        pass
    assert meter.percent() > 0
    assert meter.percent() >= 0


@pytest.mark.parametrize(
    ("zones", "expected"),
    [((), None), (("42500", "38000"), 42.5), (("-274000", "nonsense", "250000"), None), (("0", ""), 0.0)],
)
def test_temperature(fake_root: Path, zones: tuple[str, ...], expected: float | None) -> None:
    for index, text in enumerate(zones):
        write(fake_root, f"sys/class/thermal/thermal_zone{index}/temp", text)
    assert device.temperature_c() == expected


@pytest.mark.parametrize(
    ("capacity", "status", "expected"),
    [
        ("81\n", "Discharging\n", device.Battery(81.0, charging=False)),
        ("100", "Full", device.Battery(100.0, charging=True)),
        ("104", "Charging", device.Battery(100.0, charging=True)),
        ("unknown", "Charging", None),
    ],
)
def test_battery_of_the_kernel(fake_root: Path, capacity: str, status: str, expected: device.Battery | None) -> None:
    write_battery(fake_root, capacity, status)
    monitor = device.BatteryMonitor()
    assert monitor.read() == expected
    write_battery(fake_root, "5", "Discharging")
    assert monitor.read() == device.Battery(5.0, charging=False)


@pytest.mark.parametrize(("temp", "expected"), [("412\n", 41.2), ("-2740\n", None), ("warm", None)])
def test_temperature_of_the_battery(fake_root: Path, temp: str, expected: float | None) -> None:
    write_battery(fake_root, "50", "Discharging")
    write(fake_root, "sys/class/power_supply/BAT0/temp", temp)
    assert device.BatteryMonitor().read() == device.Battery(50.0, charging=False, temperature_c=expected)


def test_no_battery(fake_root: Path) -> None:
    write(fake_root, "sys/class/power_supply/AC/type", "Mains\n")
    assert device.BatteryMonitor().read() is None


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('echo \'{"percentage": 64, "status": "DISCHARGING"}\'', device.Battery(64.0, charging=False)),
        (
            'echo \'{"percentage": 64, "status": "CHARGING", "temperature": 45.5}\'',
            device.Battery(64.0, charging=True, temperature_c=45.5),
        ),
        (
            'echo \'{"percentage": 64, "status": "CHARGING", "temperature": 4550}\'',
            device.Battery(64.0, charging=True),
        ),
        ("echo no; exit 1", None),
        ("echo '{}'", None),
        ("echo '[]'", None),
    ],
)
def test_battery_of_termux(
    fake_root: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: device.Battery | None
) -> None:
    command = fake_root / "bin" / "termux-battery-status"
    write(fake_root, "bin/termux-battery-status", f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    asked = threading.Event()
    wait = threading.Event.wait

    def note_then_wait(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout == device._BATTERY_INTERVAL_S:
            asked.set()
        return wait(event, timeout)

    monkeypatch.setattr(device.threading.Event, "wait", note_then_wait)
    monitor = device.BatteryMonitor()
    try:
        assert asked.wait(DEADLINE_S)
        assert monitor.read() == expected
    finally:
        monitor.close()


def test_memory_a_node_may_use() -> None:
    assert device.memory_budget_bytes(None) > device.memory_bytes()[0]
    assert device.memory_budget_bytes(7) == 7


def test_what_is_stored_already_does_not_shrink_the_default_limit(tmp_path: Path) -> None:
    before = device.storage_budget_bytes(tmp_path, None)
    assert before > 0
    (tmp_path / ("0" * 64)).write_bytes(bytes(8 * MEBI))
    after = device.storage_budget_bytes(tmp_path, None)
    assert after > before - 256 * MEBI, "other programs write to this disk meanwhile"
    assert device.storage_budget_bytes(tmp_path, 5) == 5
