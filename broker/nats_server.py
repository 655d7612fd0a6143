"""NATS as the broker of one machine that has no Mosquitto: its server speaks MQTT 3.1.1 and comes as a wheel."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

_MAX_PAYLOAD_BYTES = 2_000_000
_MAX_UNACKNOWLEDGED = 256
"""Of each QoS 1 subscription; what comes beyond waits. A client's subscriptions may have 65,535 of them together."""


def find_nats_server() -> str | None:
    """The path of the program: where pip puts it for this Python, or wherever the PATH leads. None if there is none."""
    folders = (
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")),
        None,
    )
    return next(filter(None, (shutil.which("nats-server", path=folder) for folder in folders)), None)


def nats_server_version(path: str) -> str:
    """ "2.15.1" from the line that it says of itself."""
    done = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", check=False)
    words = done.stdout.split()
    return words[-1].removeprefix("v") if words else "unknown"


def nats_configuration(port: int, store: Path) -> str:
    """What the server is to read: MQTT on 127.0.0.1 alone, for everybody there. ``store``: a folder of its own.

    It has to listen for clients of its own protocol, too: on 127.0.0.1, at any port.
    """
    mqtt = {"host": "127.0.0.1", "port": port, "max_ack_pending": _MAX_UNACKNOWLEDGED, "consumer_memory_storage": True}
    return json.dumps(
        {
            "server_name": "linguabus",
            "host": "127.0.0.1",
            "port": -1,
            "max_payload": _MAX_PAYLOAD_BYTES,
            "jetstream": {"store_dir": str(store), "max_memory_store": "256M", "max_file_store": "1G"},
            "mqtt": mqtt,
        }
    )
