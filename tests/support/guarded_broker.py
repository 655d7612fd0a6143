"""A Mosquitto that enforces the roles. Names are believed: whoever connects as a user has that user's role."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.local_broker import find_mosquitto
from tests.support.broker_roles import acl_text
from tests.support.polling import DEADLINE_S


@contextmanager
def guarded_broker(folder: Path, **names: list[str]) -> Iterator[int]:
    """Its port on this machine; ``names`` are `acl_text`'s."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    acl = folder / "roles.acl"
    acl.write_text(acl_text(**names))
    acl.chmod(0o600)
    if shutil.which("chown"):
        subprocess.run(["chown", "mosquitto", str(acl)], stderr=subprocess.DEVNULL, check=False)
    configuration = folder / "guarded.conf"
    configuration.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {acl}\nset_tcp_nodelay true\n"
        "max_queued_messages 0\npersistence false\nlog_dest stderr\nuser root\n"
    )
    mosquitto = find_mosquitto()
    assert mosquitto
    with (folder / "guarded.log").open("wb") as log:
        process = subprocess.Popen([mosquitto, "-c", str(configuration)], stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "guarded.log").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()
