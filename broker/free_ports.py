"""Ports of this machine that nobody listens on now."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Below those that a system gives to outgoing connections (Linux: from 32768, others: from 49152): one of them may
# belong to somebody's connection a moment after it was seen free.
_PORTS = range(10_000, 32_768)
_LOOKS = 200


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports of an address of this machine, chosen at random: processes that look at once find others.

    Raises:
        OSError: the address is not this machine's, or all that were looked at are taken.
    """
    with ExitStack() as held:
        return [held.enter_context(_bound(host)).getsockname()[1] for _ in range(count)]


def free_port(host: str = "127.0.0.1") -> int:
    """One of them."""
    return free_ports(1, host)[0]


def _bound(host: str) -> socket.socket:
    for port in random.sample(_PORTS, _LOOKS):
        found = socket.socket()
        try:
            found.bind((host, port))
            return found
        except OSError as error:
            found.close()
            last = error
    raise last
