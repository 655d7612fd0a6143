"""Answers who asks by multicast DNS whether there is a fleet in this network."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence

from broker.security import is_loopback
from schemas import mdns
from schemas.closing import Closing
from schemas.errors import MessageError
from schemas.mdns import Announcement
from schemas.rates import Rate, TokenBucket

_ANSWERS = Rate(burst=20, per_s=5)
"""More than one network of people needs, and too few to flood anybody whose address others ask with."""
_log = logging.getLogger(__name__)


class Announcer(Closing):
    """Answers, in a thread, until it is closed. A context manager."""

    def __init__(self, said: Callable[[], Announcement], interfaces: Sequence[str]) -> None:
        """Listen.

        Args:
            said: what to answer now.
            interfaces: this machine's IPv4 addresses in the networks where it is to be found.

        Raises:
            OSError: multicast can't be listened to.
        """
        self._said = said
        self._bucket = TokenBucket(_ANSWERS)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # Another responder of this machine listens there, too.
            for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
                if hasattr(socket, option):
                    self._socket.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            self._socket.bind((mdns.GROUP, mdns.PORT))
            for interface in interfaces:
                with contextlib.suppress(OSError):  # one that knows no multicast
                    member = socket.inet_aton(mdns.GROUP) + socket.inet_aton(interface)
                    self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        except OSError:
            self._socket.close()
            raise
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="announcer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Idempotent."""
        if not self._ended:
            self._ended = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, though nothing is connected
            self._thread.join()
            self._socket.close()

    def _serve(self) -> None:
        while not self._ended:
            try:
                message, asker = self._socket.recvfrom(mdns.MOST_BYTES)
                if not self._ended:
                    self._answer(message, asker)
            except MessageError as error:
                _log.debug("no question: %s", error)
            except OSError as error:
                if not self._ended:
                    _log.warning("who asks for fleets in this network can't be answered: %s", error)
                    return

    def _answer(self, message: bytes, asker: tuple[str, int]) -> None:
        number = mdns.asks_for_fleets(message)
        if number is None or not _is_near(asker[0]) or not self._bucket.take(time.monotonic()):
            return
        is_alone = asker[1] != mdns.PORT
        target = asker if is_alone else (mdns.GROUP, mdns.PORT)
        self._socket.sendto(mdns.answer(self._said(), number if is_alone else None), target)


def _is_near(host: str) -> bool:
    """Only who is in a network of the house is answered, whoever else a packet may come from."""
    address = ipaddress.ip_address(host)
    return address.is_private or address.is_link_local


def found_at(addresses: Sequence[str]) -> tuple[str, ...]:
    """Of a fleet's addresses those that can be announced: names are not, and what only this machine reaches."""
    found = []
    for address in addresses:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(address.partition("%")[0])
            if not is_loopback(address):
                found.append(address)
    return tuple(found)
