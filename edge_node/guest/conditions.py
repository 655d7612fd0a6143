"""Conditions under which a node's owner lends the device: on a charger, in a Wi-Fi. What can't be known holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge_node.telemetry.reading import Reading
from edge_node.telemetry.system_command import NoReading, output_of

TERMUX_WIFI = "termux-wifi-connectioninfo"
_TERMUX_TIMEOUT_S = 10.0
UNKNOWN_S = 15.0
"""What is not known for so long is said to be so."""
_MOBILE_TYPES = frozenset({512, 519, 530})
"""Of interfaces, by the kernel: PPP, raw IP of modems."""
_ETHERNET_TYPE = 1  # and Wi-Fi, which looks like it


class Condition:
    """One condition, reading by reading: a short gap is none, and what is back has to last (pure)."""

    def __init__(self, kind: str, reason: str, unknown: str, *, off_s: float, on_s: float) -> None:
        """``reason``: why a node rests then. ``unknown``: what is said, once, when it can't be known.

        ``off_s``: how long it must not hold until the node rests. ``on_s``: how long it must hold again.
        """
        self.kind = kind
        self._reason, self._unknown = reason, unknown
        self._off_s, self._on_s = off_s, on_s
        self._rests = False
        self._begun_s: float | None = None
        self._changing_since_s: float | None = None
        self._unknown_since_s: float | None = None
        self._told = False

    def heard(self, holds: bool | None, now_s: float) -> tuple[str, str]:
        """Take in a reading; None: unknown. Returns why the node rests, or nothing, and a line to be told, or none."""
        line = self._unknown_line(holds, now_s)
        wants_rest = holds is False
        if holds is not None and self._begun_s is None:  # how it is at the start has lasted
            self._begun_s, self._rests = now_s, wants_rest
        if wants_rest is self._rests:
            self._changing_since_s = None
        elif self._changing_since_s is None:
            self._changing_since_s = now_s
        if self._changing_since_s is not None:
            lasts_s = now_s - self._changing_since_s
            if lasts_s >= (self._off_s if wants_rest else self._on_s):
                self._rests, self._changing_since_s = wants_rest, None
        return (self._reason if self._rests else ""), line

    def _unknown_line(self, holds: bool | None, now_s: float) -> str:
        if holds is not None:
            self._unknown_since_s = None
            return ""
        if self._unknown_since_s is None:
            self._unknown_since_s = now_s
        if self._told or now_s - self._unknown_since_s < UNKNOWN_S:
            return ""
        self._told = True
        return self._unknown


class WifiMonitor:
    """Is the way to the world a Wi-Fi or a cable? From Termux, whose command can hang, in a thread; else the kernel."""

    def __init__(self, look_s: float) -> None:
        self._by_termux: Reading[bool | None] | None = None
        if shutil.which(TERMUX_WIFI):
            self._by_termux = Reading(termux_wifi, None, name="wifi", every_s=look_s)

    def read(self) -> bool | None:
        """As last known; None: unknown."""
        return self._by_termux.value if self._by_termux else default_route_is_lan()

    def close(self) -> None:
        """Stop asking."""
        if self._by_termux:
            self._by_termux.close()


def termux_wifi() -> bool:
    """Is the phone in a Wi-Fi, by what Termux says?

    Raises:
        NoReading: it says nothing, or nothing that can be used.
    """
    said = output_of(TERMUX_WIFI, timeout_s=_TERMUX_TIMEOUT_S)
    try:
        return str(json.loads(said)["supplicant_state"]).upper() == "COMPLETED"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoReading("what it says is no state of a Wi-Fi") from error


def default_route_is_lan(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> bool | None:
    """Does the default route go through Wi-Fi or Ethernet? None where the kernel does not say, or there is none."""
    interface = _default_interface(proc / "net/route")
    if interface is None:
        return None
    device = sys / "class/net" / interface
    try:
        kind = int((device / "type").read_text())
        uevent = (device / "uevent").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if kind in _MOBILE_TYPES or "DEVTYPE=wwan" in uevent:
        return False
    return True if kind == _ETHERNET_TYPE else None  # a tunnel: what it goes through is not seen here


def _default_interface(routes: Path) -> str | None:
    """The interface of the default route with the lowest metric."""
    found: list[tuple[int, str]] = []
    with suppress(OSError, ValueError, IndexError):
        for line in routes.read_text().splitlines()[1:]:
            interface, destination, _, _, _, _, metric, mask = line.split()[:8]
            if int(destination, 16) == 0 and int(mask, 16) == 0:
                found.append((int(metric), interface))
    return min(found)[1] if found else None


Watched = tuple[Condition, Callable[[], bool | None]]
"""A condition, and how it is read."""
