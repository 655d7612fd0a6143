"""A broker that answers as it is told: for refusals and garbage that a real one can't be made to send."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.mqtt_packets import Framer, Packet

CONNACK_OK_311 = bytes([0x20, 2, 0, 0])
CONNACK_OK_5 = bytes([0x20, 3, 0, 0, 0])

Answer = Callable[[Packet], bytes | None]
"""The bytes to send back for a packet; None: close the connection."""


class FakeBroker:
    """Listens on a free loopback port and serves one connection after the other. A context manager."""

    def __init__(self, answer: Answer) -> None:
        self.packets: list[Packet] = []
        """Everything received, in order."""
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="fake broker", daemon=True)
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"

    def send(self, data: bytes) -> None:
        """Send something nobody asked for to the client that is connected."""
        assert self._client is not None
        self._client.sendall(data)

    def reset(self) -> None:
        """Be killed, as far as the client that is connected can see."""
        assert self._client is not None
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.shutdown(socket.SHUT_RD)  # the thread that reads closes it

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, self._client):
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                self._client, _ = self._listener.accept()
                with self._client as client, suppress(OSError):
                    self._talk(client)

    def _talk(self, client: socket.socket) -> None:
        framer = Framer()
        while data := client.recv(65_536):
            for packet in framer.feed(data):
                self.packets.append(packet)
                answer = self._answer(packet)
                if answer is None:
                    return
                client.sendall(answer)
