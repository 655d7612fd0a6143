"""On a charger, in a Wi-Fi: short gaps, readings that are missing, and what the kernel and Termux say."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.guest import conditions
from edge_node.guest.conditions import UNKNOWN_S, Condition, WifiMonitor, default_route_is_lan, termux_wifi
from edge_node.telemetry.system_command import NoReading

HEADER = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"


def condition() -> Condition:
    return Condition("charging", "off", "unknown", off_s=5.0, on_s=30.0)


def rests(one: Condition, holds: bool | None, now_s: float) -> bool:
    return one.heard(holds, now_s)[0] == "off"


def test_short_gaps_are_none_and_what_is_back_has_to_last() -> None:
    one = condition()
    assert not rests(one, True, 0.0)
    assert not rests(one, False, 1.0)
    assert not rests(one, False, 5.9)
    assert not rests(one, True, 6.0)
    assert not rests(one, False, 7.0)
    assert rests(one, False, 12.0)
    assert rests(one, True, 13.0)
    assert rests(one, True, 42.9)
    assert rests(one, False, 43.0)
    assert rests(one, True, 44.0)
    assert not rests(one, True, 74.0)


def test_how_it_is_at_the_start_has_lasted() -> None:
    one = condition()
    assert not rests(one, None, 0.0)
    assert rests(one, False, 1.0)


def test_what_is_not_known_holds_and_is_said_once() -> None:
    one = condition()
    lines = [one.heard(None, now_s)[1] for now_s in (0.0, UNKNOWN_S - 0.1, UNKNOWN_S, UNKNOWN_S + 1)]
    assert lines == ["", "", "unknown", ""]
    assert rests(one, False, 60.0)
    assert rests(one, None, 61.0)
    assert not rests(one, None, 91.0)


def machine(folder: Path, interfaces: dict[str, tuple[int, str]], routes: str) -> tuple[Path, Path]:
    """/proc and /sys."""
    (folder / "net").mkdir()
    (folder / "net/route").write_text(HEADER + routes)
    for name, (kind, uevent) in interfaces.items():
        (folder / "class/net" / name).mkdir(parents=True)
        (folder / "class/net" / name / "type").write_text(f"{kind}\n")
        (folder / "class/net" / name / "uevent").write_text(uevent)
    return folder, folder


def route(interface: str, metric: int, destination: str = "00000000", mask: str = "00000000") -> str:
    return f"{interface} {destination} 0101A8C0 0003 0 0 {metric} {mask} 0 0 0\n"


@pytest.mark.parametrize(
    ("interface", "kind", "uevent", "is_lan"),
    [
        ("wlan0", 1, "DEVTYPE=wlan\n", True),
        ("eth0", 1, "INTERFACE=eth0\n", True),
        ("wwan0", 1, "DEVTYPE=wwan\n", False),
        ("ppp0", 512, "", False),
        ("rmnet0", 519, "", False),
        ("tun0", 65534, "", None),
    ],
)
def test_the_default_routes_interface_tells(
    interface: str, kind: int, uevent: str, is_lan: bool | None, tmp_path: Path
) -> None:
    others = route("lo", 0, "0000007F", "000000FF") + route("other0", 900)
    interfaces = {interface: (kind, uevent), "other0": (512 if is_lan else 1, "")}
    assert default_route_is_lan(*machine(tmp_path, interfaces, others + route(interface, 100))) is is_lan


def test_without_a_default_route_or_where_the_kernel_is_silent_it_is_not_known(tmp_path: Path) -> None:
    assert default_route_is_lan(tmp_path, tmp_path) is None
    assert default_route_is_lan(*machine(tmp_path, {}, route("eth0", 0, "0000A8C0", "00FFFFFF"))) is None


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    path = folder / conditions.TERMUX_WIFI
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("said", "is_wifi"),
    [
        ('{"ip": "192.168.1.7", "supplicant_state": "COMPLETED"}', True),
        ('{"ip": "0.0.0.0", "supplicant_state": "DISCONNECTED"}', False),
        ('{"API_ERROR": "no permission"}', None),
        ("[]", None),
        ("", None),
    ],
)
def test_what_termux_says(said: str, is_wifi: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, f"echo '{said}'")
    if is_wifi is None:
        with pytest.raises(NoReading):
            termux_wifi()
    else:
        assert termux_wifi() is is_wifi


def test_a_command_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_TERMUX_TIMEOUT_S", 0.2)
    script(tmp_path, monkeypatch, "exec sleep 60")
    monitor = WifiMonitor(60.0)
    try:
        assert monitor.read() is None
    finally:
        monitor.close()
