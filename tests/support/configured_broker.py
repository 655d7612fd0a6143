"""A Mosquitto with lines of its own in its configuration."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.free_ports import free_port
from broker.local_broker import find_mosquitto
from tests.support.polling import DEADLINE_S


@contextmanager
def configured_broker(folder: Path, *lines: str) -> Iterator[int]:
    """Its port on this machine; ``lines`` are added to the configuration."""
    port = free_port()
    configuration = folder / "mosquitto.conf"
    common = ("allow_anonymous true", "set_tcp_nodelay true", "max_queued_messages 0", "persistence false")
    configuration.write_text(
        "\n".join((f"listener {port} 127.0.0.1", *common, "log_dest stderr", "user root", *lines, ""))
    )
    mosquitto = find_mosquitto()
    assert mosquitto
    log_path = folder / "mosquitto.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([mosquitto, "-c", str(configuration)], stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert process.poll() is None, log_path.read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()
