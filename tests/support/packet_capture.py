"""Everything that passes over loopback, as somebody in the network would see it. Linux, as root or with CAP_NET_RAW."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

_ALL_PROTOCOLS = 3
_LONGEST_BYTES = 1 << 17
_BUFFER_BYTES = 1 << 25
_ETHERNET_BYTES = 14
_IPV4 = b"\x08\x00"
_DISCARD = 9


def can_capture() -> bool:
    """May this process see packets?"""
    try:
        _socket().close()
    except (AttributeError, OSError):
        return False
    return True


class PacketCapture:
    """Keeps all packets from and to some ports on loopback, over IPv4, while the context lasts."""

    def __init__(self, *ports: int) -> None:
        self._ports = frozenset(ports)
        self._socket = _socket()
        self._packets: list[bytes] = []
        self._last = os.urandom(32)
        self._thread = threading.Thread(target=self._listen, name="capture", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:
            while self._thread.is_alive():  # a full buffer may have lost one
                speaker.sendto(self._last, ("127.0.0.1", _DISCARD))
                self._thread.join(0.1)
        self._socket.close()

    def _listen(self) -> None:
        while True:
            packet = self._socket.recv(_LONGEST_BYTES)
            if self._last in packet:
                return
            if self._ports & set(_ports(packet)):
                self._packets.append(packet)

    @property
    def bytes(self) -> bytes:
        """Everything that was seen."""
        return b"".join(self._packets)


@contextmanager
def tshark_writing(file: Path, ports: Iterable[int]) -> Iterator[None]:
    """Wireshark's program writes all packets from and to some ports on loopback into a file while the context lasts."""
    wanted = " or ".join(f"tcp port {port}" for port in ports)
    command = ["tshark", "-i", "lo", "-f", wanted, "-w", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if "Capture started" in line:
                    break
            else:
                raise AssertionError("".join(said))
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def tshark(file: Path, ports: Iterable[int], wanted: str, field: str) -> list[str]:
    """A field of all packets of a file that a display filter wants, with what goes over some ports read as TLS."""
    as_tls = [word for port in ports for word in ("-d", f"tcp.port=={port},tls")]
    command = ["tshark", "-r", str(file), *as_tls, "-Y", wanted, "-T", "fields", "-e", field]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout.split()


def _ports(packet: bytes) -> tuple[int, ...]:
    """Source and target of a packet of IPv4 in an Ethernet frame."""
    if packet[12:14] != _IPV4:
        return ()
    begin = _ETHERNET_BYTES + 4 * (packet[_ETHERNET_BYTES] & 15)
    return struct.unpack_from(">HH", packet, begin) if len(packet) >= begin + 4 else ()


def _socket() -> socket.socket:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    found.bind(("lo", 0))
    return found
