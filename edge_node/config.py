"""The configuration of a node: what it is told on its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.address import BrokerAddress, as_address
from broker.whereabouts import Whereabouts

BLOBS = "blobs"
"""Of a node's home: the folder of model parts."""
SPEEDS = (0.01, 1.0)
"""Least and greatest speed that can be emulated."""


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Settings of a node. Limits are in bytes; ``None`` means: find out from the machine."""

    name: str
    broker_url: str | BrokerAddress
    home: Path
    whereabouts: Whereabouts | None = None
    """Of a member: where it finds its fleet's host by now."""
    memory_limit_bytes: int | None = None
    storage_limit_bytes: int | None = None
    threads: int = 1
    providers: tuple[str, ...] | None = None
    """Execution providers of ONNX Runtime that may be tried beside the CPU; None: all."""
    emulated_speed: float = 1.0
    emulated_speed_file: Path | None = None
    """Has another speed when it is read again."""
    watchdog_min_s: float = 1.0
    heartbeat_interval_s: float = 1.0
    connect_timeout_s: float = 10.0
    check_interval_s: float = 300.0
    """Between two looks whether an idle node still computes what it should; 0: only when it loads or wakes up."""
    drain_timeout_s: float = 20.0
    """How long a node that was asked to stop waits for others to take its layers over; 0: not at all."""

    only_charging: bool = False
    """Rest while the device is on no charger."""
    only_wifi: bool = False
    """Rest while it is neither in a Wi-Fi nor on a cable."""
    condition_look_s: float = 10.0
    """Between two looks whether it is, where a command has to be run for that."""
    condition_off_s: float = 5.0
    """How long it must not be, until the node rests."""
    condition_on_s: float = 30.0
    """How long it must be again, until the node rests no longer."""

    @property
    def broker(self) -> BrokerAddress:
        """The broker's address."""
        return as_address(self.broker_url)

    def find(self) -> BrokerAddress:
        """The broker's address by now."""
        return self.whereabouts.broker() if self.whereabouts else self.broker

    @property
    def is_member(self) -> bool:
        """Has it joined a fleet? Then there is a broker, even if it is away."""
        return self.broker.authority is not None

    @property
    def blob_directory(self) -> Path:
        """Where blobs are kept."""
        return self.home / BLOBS


def read_speed(path: Path, before: float = 1.0) -> float:
    """Read the emulated speed from a file; ``before`` where the file has none in the range of the option."""
    try:
        speed = float(path.read_text())
    except (OSError, ValueError):
        return before
    return speed if SPEEDS[0] <= speed <= SPEEDS[1] else before
