"""Which fleets announce themselves in this network: asked once, by multicast, and nobody is connected to for it."""

from __future__ import annotations

import contextlib
import socket
import time

from schemas import mdns
from schemas.errors import MessageError
from schemas.mdns import Announcement

_MOST_FLEETS = 16


def look(timeout_s: float) -> tuple[Announcement, ...]:
    """The fleets that have answered after so long; none where the network can't be asked."""
    found: dict[str, Announcement] = {}
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(mdns.question(), (mdns.GROUP, mdns.PORT))
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0 and len(found) < _MOST_FLEETS:
            asking.settimeout(left_s)
            message, _ = asking.recvfrom(mdns.MOST_BYTES)
            with contextlib.suppress(MessageError):
                found |= {one.fleet: one for one in mdns.announcements(message)}
    return tuple(found[fleet] for fleet in sorted(found))
