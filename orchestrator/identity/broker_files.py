"""What Mosquitto reads of a fleet: its configuration, hashes of keys, and roles.

A change of members is a change of two files and one signal. Who is no longer in the password file is disconnected by
it; nobody else notices.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from broker.private_file import write_private
from broker.roles import acl_text
from orchestrator.identity.fleet_folder import LOOPBACK, FleetFolder, FleetSettings
from orchestrator.identity.register import Register
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.roles import ON_BROKER, Role

MOST_CONNECTIONS = 800
"""Of members and of strangers, who may be in the middle of a handshake."""
MOST_OF_HOST = 100
"""For programs of this machine. All together are fewer than the 1024 files that most systems let Mosquitto have."""
MOST_OF_BROWSERS = 100
MOST_QUEUED_MESSAGES = 20_000
"""Of one slow reader; the default of 1000 drops messages that a quick one would have taken."""
MOST_QUEUED_BYTES = 64 << 20
"""Of one reader that does not read; without it messages of full size would fill this machine's memory."""
MOST_MEMORY_BYTES = 512 << 20
"""Of the broker in all; what members store has no limit of its own. Who sends what has no room is disconnected."""
_PACKET_ROOM_BYTES = 64 << 10
_BROKER_LOOKS_S = 1.0
"""broker/mosquitto/entrypoint.sh looks twice a second."""

_CONFIGURATION = """\
# Written by linguabus; changes are lost.
{user}{listeners}allow_anonymous false
password_file {passwords}
acl_file {roles}
# Nagle's algorithm would hold small messages back for up to 40 ms.
set_tcp_nodelay true
max_packet_size {packet}
max_queued_messages {queued}
max_queued_bytes {queued_bytes}
memory_limit {memory}
# Of sessions that outlive their connection, which no program of linguabus makes.
persistent_client_expiration 1h
# Retained messages (births, plans) are renewed by those who own them.
persistence false
{pid}log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
"""
_LISTENER = """\
listener {port}{address}
{protocol}max_connections {connections}
# Key and certificate are in one file, so that they always fit.
certfile {server}
keyfile {server}
tls_version tlsv1.2
"""


def configuration_file(fleet: FleetFolder) -> Path:
    """Mosquitto's configuration."""
    return fleet.broker_folder / "mosquitto.conf"


def write_broker_files(fleet: FleetFolder, register: Register) -> bool:
    """Write what has changed; has the broker to be told?

    One process at a time: else one that was slow would write over what another has read later.

    Raises:
        OSError: they can't be written.
        sqlite3.Error: the register can't be read.
    """
    with register.held():
        return _write_changed(fleet, [known for known in register.key_hashes() if known[1] in ON_BROKER])


def _write_changed(fleet: FleetFolder, members: Sequence[tuple[str, Role, str]]) -> bool:
    folder = fleet.broker_folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    texts = {
        "passwords": "".join(f"{name}:{key_hash}\n" for name, _, key_hash in members),
        "roles": acl_text(((name, role) for name, role, _ in members), discovery=fleet.settings.home_assistant),
        "server.pem": fleet.server_file.read_text("utf-8"),
        "mosquitto.conf": _CONFIGURATION.format(
            # Mosquitto would become another user, who may not read what is its owner's alone.
            user=f"user {getpass.getuser()}\n" if hasattr(os, "getuid") and os.getuid() == 0 else "",
            listeners=_listeners(fleet),
            passwords=folder / "passwords",
            roles=folder / "roles",
            packet=MAX_PAYLOAD_BYTES + _PACKET_ROOM_BYTES,
            queued=MOST_QUEUED_MESSAGES,
            queued_bytes=MOST_QUEUED_BYTES,
            memory=MOST_MEMORY_BYTES,
            # Of no use on another machine, where the files are not to be written to either.
            pid="" if fleet.settings.broker_files else f"pid_file {folder / 'mosquitto.pid'}\n",
        ),
    }
    changed = [name for name, text in texts.items() if _read(folder / name) != text]
    for name in changed:
        write_private(folder / name, texts[name])
    return bool(changed)


def _listeners(fleet: FleetFolder) -> str:
    """One for members, and one for this machine; in containers on their own network, which publishes no port of it.

    And one for members' programs in browsers, where that is wanted: the same, inside WebSocket.
    """
    settings = fleet.settings
    host = "" if settings.inside or settings.broker_files else LOOPBACK[0]
    listeners: tuple[tuple[int, str, int, str], ...] = (
        (settings.broker_port, settings.listen, MOST_CONNECTIONS, ""),
        (settings.host_port, host, MOST_OF_HOST, ""),
    )
    listeners += _websocket_listeners(settings)
    return "".join(
        _LISTENER.format(
            port=port,
            address=f" {address}" if address else "",
            protocol=protocol,
            connections=connections,
            server=fleet.broker_folder / "server.pem",
        )
        for port, address, connections, protocol in listeners
    )


def _websocket_listeners(settings: FleetSettings) -> tuple[tuple[int, str, int, str], ...]:
    """The one for browsers, where it is wanted.

    Mosquitto 2.0 listens for WebSocket everywhere, whatever the address, unless that is of the family that it is told.
    """
    if not settings.websocket_port:
        return ()
    address = family = ""
    if settings.only_address:
        found, *_ = socket.getaddrinfo(settings.only_address, settings.websocket_port, type=socket.SOCK_STREAM)
        address = str(found[4][0])
        family = f"socket_domain ipv{6 if found[0] == socket.AF_INET6 else 4}\n"
    return ((settings.websocket_port, address, MOST_OF_BROWSERS, f"{family}protocol websockets\n"),)


def tell_broker(fleet: FleetFolder) -> bool:
    """Have Mosquitto read its files again; false where it does not run on this machine, or is somebody else's.

    One that looks for changes itself is given the time that it takes to.
    """
    if fleet.settings.broker_files:
        time.sleep(_BROKER_LOOKS_S)
        return True
    with contextlib.suppress(OSError, ValueError):
        pid = int((fleet.broker_folder / "mosquitto.pid").read_text())
        if "mosquitto" in Path(f"/proc/{pid}/comm").read_text():  # the number may be another's by now
            os.kill(pid, signal.SIGHUP)
            return True
    return False


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except OSError:
        return None
