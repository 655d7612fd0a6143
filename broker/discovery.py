"""Which fleets announce themselves in this network: asked once, by multicast, and nobody is connected to for it."""

from __future__ import annotations

import contextlib
import socket
import time

from broker.address import BrokerAddress
from broker.dial import dial
from broker.errors import BrokerUnreachable
from schemas import mdns
from schemas.errors import MessageError
from schemas.mdns import Announcement

_MOST_FLEETS = 16
_CONNECT_S = 1.0


def is_open(broker: BrokerAddress) -> bool:
    """Does anybody listen there? For a broker on this machine."""
    try:
        dial(broker, None, _CONNECT_S).close()
    except BrokerUnreachable:
        return False
    return True


def look(
    timeout_s: float, *, group: tuple[str, int] = (mdns.GROUP, mdns.PORT), through: str | None = None
) -> tuple[Announcement, ...]:
    """The fleets that have answered after so long; none where the network can't be asked.

    Args:
        timeout_s: how long answers are waited for.
        group: whom to ask.
        through: this machine's address in the network that is asked; None: what the system takes.
    """
    found: dict[str, Announcement] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        if through:
            asking.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(through))
        asking.sendto(mdns.question(), group)
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0 and len(found) < _MOST_FLEETS:
            asking.settimeout(left_s)
            message, _ = asking.recvfrom(mdns.MOST_BYTES)
            with contextlib.suppress(MessageError):
                found |= {one.fleet: one for one in mdns.announcements(message)}
    return tuple(found[fleet] for fleet in sorted(found))
