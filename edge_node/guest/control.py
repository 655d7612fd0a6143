"""The way to a running node for its owner on the device: a Unix socket in its home, which nobody else can open.

One question and one answer per connection, each a line of JSON: ``{"ask": "status"}`` how it is, ``{"ask": "look"}``
the same once it has looked at its pause again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from edge_node.errors import NodeError
from edge_node.guest.state import NodeState
from schemas.closing import Closing

_FILE = "node.sock"
_MOST_PATH_BYTES = 100
"""Of a socket, with some room: 104 on macOS, 108 on Linux."""
_MOST_ASKED_BYTES, _MOST_ANSWERED_BYTES = 256, 64 << 10
TIMEOUT_S = 3.0
ASKS = ("status", "look")
_log = logging.getLogger(__name__)


class NoWayToNode(NodeError):
    """The socket of a node can't be used: there is none, or nobody answers."""


@contextmanager
def _address(home: Path) -> Iterator[str]:
    """A path to the socket that is short enough, which that of the home need not be."""
    path = home / _FILE
    if len(os.fsencode(path)) <= _MOST_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{_FILE}"
    finally:
        os.close(folder)


class ControlServer(Closing):
    """Answers the owner, in a thread. To be made by the one node that holds the home."""

    def __init__(self, home: Path, answer: Callable[[str], NodeState]) -> None:
        """``answer`` is given what was asked, one of `ASKS`.

        Raises:
            OSError: there can be no socket in this home.
        """
        self._answer = answer
        self._path = home / _FILE
        self._path.unlink(missing_ok=True)  # of a node that was killed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(home) as address:
                self._socket.bind(address)
            self._path.chmod(0o600)  # before anybody can connect
            self._socket.listen(4)
        except OSError:
            self._socket.close()
            raise
        self._is_over = False
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more. Idempotent."""
        self._is_over = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._is_over:
            try:
                asking, _ = self._socket.accept()
            except OSError as error:
                if not self._is_over:
                    _log.warning("nobody can ask this node on the device any more: %s", error)
                return
            with asking:
                try:
                    asking.settimeout(TIMEOUT_S)
                    self._reply(asking)
                except (OSError, ValueError, RecursionError) as error:
                    _log.debug("a question on the device came to nothing: %s", error)

    def _reply(self, asking: socket.socket) -> None:
        asked = json.loads(_line(asking, _MOST_ASKED_BYTES))
        if not isinstance(asked, dict) or asked.get("ask") not in ASKS:
            raise ValueError("it is no question")
        asking.sendall(json.dumps(asdict(self._answer(asked["ask"]))).encode() + b"\n")


def ask(home: Path, what: str, *, timeout_s: float = 2 * TIMEOUT_S) -> NodeState:
    """How the node of a home is, once it has done what was asked.

    Raises:
        NoWayToNode: nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(timeout_s)
            with _address(home) as address:
                asking.connect(address)
            asking.sendall(json.dumps({"ask": what}).encode() + b"\n")
            return NodeState(**json.loads(_line(asking, _MOST_ANSWERED_BYTES)))
    except (OSError, ValueError, TypeError) as error:
        raise NoWayToNode(str(error)) from error


def _line(connection: socket.socket, most_bytes: int) -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        piece = connection.recv(4096)
        said += piece
        if not piece or len(said) > most_bytes:
            raise ValueError("it is too long, or broke off")
    return said
