"""A broker that was started as a child process: is its port free before, and when does it answer?"""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from broker.address import BrokerAddress
from broker.child_process import ChildProcess
from broker.errors import BrokerDidNotStart, BusError
from broker.mqtt import MqttBus, ProtocolChoice

START_S = 15.0
_LOOK_S = 0.02
_ATTEMPT_S = 2.0
_IN_USE_S = 1.0


def require_free_port(kind: str, host: str, port: int) -> None:
    """Raise `BrokerDidNotStart` if somebody answers there, who would be taken for the broker that could not bind."""
    try:
        socket.create_connection((host, port), timeout=_IN_USE_S).close()
    except OSError:
        return
    raise BrokerDidNotStart(kind, f"port {port} is in use")


def wait_until_ready(
    kind: str,
    process: ChildProcess,
    address: BrokerAddress,
    log: Path,
    *,
    timeout_s: float = START_S,
    protocol: ProtocolChoice = "auto",
) -> None:
    """Return when the broker answers a CONNECT.

    Raises:
        BrokerDidNotStart: it ended, or stayed silent; carries the telling line of its log.
    """
    end_s, last = time.monotonic() + timeout_s, ""
    while process.running and time.monotonic() < end_s:
        try:
            with MqttBus(address, client_id=f"ready-{secrets.token_hex(8)}", protocol=protocol) as bus:
                bus.connect(timeout_s=_ATTEMPT_S)
            if process.running:
                return
        except BusError as error:
            last = str(error)
            time.sleep(_LOOK_S)  # nothing to wait on: the port is not open yet
    raise BrokerDidNotStart(kind, _telling_line(log) or last)


def _telling_line(log: Path) -> str:
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
