"""How a node is, as its owner sees it on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["serving", "idle", "resting", "leaving", "no broker", "not running", "unknown"]
"""unknown: it runs, and can't be asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeState:
    """How a node is now. Counters are since it started; None: not known, or there is none."""

    node: str
    state: State
    runs: str = ""
    """The layers that it has."""
    why: str = ""
    """Why it rests or leaves."""
    no_broker_s: float | None = None
    """For how long the broker has not answered."""
    pid: int | None = None
    uptime_s: float | None = None
    tokens: int | None = None
    rss_bytes: int | None = None
    limit_bytes: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    battery_percent: float | None = None
    charging: bool | None = None

    @property
    def line(self) -> str:
        """The state in a line."""
        if self.state == "no broker":
            return f"without a broker for {self.no_broker_s or 0:.0f} s"
        if self.state == "unknown":
            return "not answering" + (f": {self.why}" if self.why else "")
        told = ": ".join(filter(None, (self.state, self.why)))
        if self.runs:
            told += f" {self.runs}" if self.state == "serving" else f" (still has {self.runs})"
        return told if self.no_broker_s is None else f"{told}; without a broker for {self.no_broker_s:.0f} s"
