"""Everything that passes over loopback, as somebody in the network would see it. Linux, as root or with CAP_NET_RAW."""

from __future__ import annotations

import os
import socket
import threading
from types import TracebackType
from typing import Self

_ALL_PROTOCOLS = 3
_LONGEST_BYTES = 1 << 17
_BUFFER_BYTES = 1 << 25


def can_capture() -> bool:
    """May this process see packets?"""
    try:
        _socket().close()
    except (AttributeError, OSError):
        return False
    return True


class PacketCapture:
    """Keeps the bytes of all packets on loopback while the context lasts."""

    def __init__(self) -> None:
        self._socket = _socket()
        self._packets: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        marker = os.urandom(32)
        self._socket.settimeout(0.5)  # the last packets are there when the marker is
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(marker, ("127.0.0.1", 9))
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                self._packets.append(self._socket.recv(_LONGEST_BYTES))
            except TimeoutError:
                return

    @property
    def bytes(self) -> bytes:
        """Everything that was seen."""
        return b"".join(self._packets)


def _socket() -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    found.bind(("lo", 0))
    return found
