"""This machine's address on the way to another one."""

from __future__ import annotations

import socket


def own_address(host: str, port: int) -> str | None:
    """The address that ``host`` would see; None where there is no way. Nothing is sent: UDP's connect picks a route."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            name: str = probe.getsockname()[0]
            return name
    except (OSError, UnicodeError):
        return None
