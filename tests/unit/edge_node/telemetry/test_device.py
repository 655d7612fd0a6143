"""What a node says about itself: real figures of this process, and files of other machines."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edge_node.runtime import process_heap
from edge_node.telemetry import control_group, device

MEBI = 1 << 20


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/proc and /sys come from a folder."""

    def redirected(path: str) -> Path:
        return tmp_path / path.removeprefix("/")

    monkeypatch.setattr(device, "Path", redirected)
    monkeypatch.setattr(control_group, "Path", redirected)
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_memory_of_this_process() -> None:
    rss_bytes, peak_bytes = device.memory_bytes()
    assert MEBI < rss_bytes <= peak_bytes
    ballast = bytearray(os.urandom(1)) * (64 * MEBI)
    grown_bytes, _ = device.memory_bytes()
    assert grown_bytes > rss_bytes + 48 * MEBI
    assert abs(device.resident_bytes() - grown_bytes) < MEBI
    assert len(ballast) == 64 * MEBI
    assert device.available_bytes() > 0
    if sys.platform == "linux":
        del ballast
        process_heap.forget_peak()
        assert device.memory_bytes()[1] < grown_bytes - 48 * MEBI


def test_memory_without_proc(fake_root: Path) -> None:
    rss_bytes, peak_bytes = device.memory_bytes()
    assert rss_bytes == peak_bytes == device.resident_bytes() > MEBI
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
