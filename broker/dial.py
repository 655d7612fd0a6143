"""Open the TCP (and TLS) connection to a broker in the background."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable

from broker.address import BrokerAddress
from broker.connection_words import why
from broker.errors import IS_HOST_ON, BrokerUnreachable

_UNHEARD_MS = 20_000
"""Where what was sent is not acknowledged for so long, the system ends the connection: this device's address, or the
other one's, may be another one by now, which nobody tells a connection. It costs no message, unlike a keep-alive."""


def dial(address: BrokerAddress, tls: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    """Return a connected socket with TCP_NODELAY set, its TLS handshake done when `tls` is given.

    Of several hosts the first that answers. Without TCP_NODELAY Nagle's algorithm holds small messages back for up to
    40 ms.

    Raises:
        BrokerUnreachable: name not found, refused, timed out, or the TLS handshake failed; of the first host.
    """
    deadline_s = time.monotonic() + timeout_s
    hosts = (address.host, *address.other_hosts)
    failure: BrokerUnreachable | None = None
    for number, host in enumerate(hosts):
        left_s = max(0.1, deadline_s - time.monotonic()) / (len(hosts) - number)
        try:
            return _dial_host(host, address.port, tls, left_s)
        except (OSError, UnicodeError) as error:  # ssl.SSLError is the former; of what is no host's name the latter
            failure = failure or unreachable(address, why(error))
    assert failure
    raise failure


def unreachable(address: BrokerAddress, reason: str) -> BrokerUnreachable:
    """The error, with what to do about it."""
    return BrokerUnreachable(str(address), reason, *([IS_HOST_ON] if address.authority else []))


def _dial_host(host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    deadline_s = time.monotonic() + timeout_s
    sock = socket.create_connection((host, port), timeout=timeout_s)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNHEARD_MS)
        if tls is not None:
            sock.settimeout(max(0.1, deadline_s - time.monotonic()))
            sock = tls.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    return sock


class BackgroundDial:
    """One connection attempt in a thread of its own, so that a `poll` never waits for DNS, TCP or TLS.

    `done()` turns true after the attempt; then `take()` returns the socket or raises. `abandon()` closes a
    socket that nobody will take. `notify` is called from the thread when it ends.
    """

    def __init__(
        self, address: BrokerAddress, tls: ssl.SSLContext | None, timeout_s: float, notify: Callable[[], None]
    ) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._error: BrokerUnreachable | None = None
        self._abandoned = False
        self._done = False
        # A daemon: name resolution can't be interrupted, and must not hold up the end of the process.
        threading.Thread(
            target=self._run, args=(address, tls, timeout_s, notify), name=f"dial {address}", daemon=True
        ).start()

    def _run(
        self, address: BrokerAddress, tls: ssl.SSLContext | None, timeout_s: float, notify: Callable[[], None]
    ) -> None:
        sock: socket.socket | None = None
        error: BrokerUnreachable | None = None
        try:
            sock = dial(address, tls, timeout_s)
        except BrokerUnreachable as unreachable:
            error = unreachable
        with self._lock:
            self._socket, self._error, self._done = sock, error, True
            if self._abandoned and sock is not None:
                sock.close()
        notify()

    def done(self) -> bool:
        """True when `take` will not wait."""
        return self._done

    def take(self) -> socket.socket:
        """Return the connected socket, the caller's from now on. Raises BrokerUnreachable if there is none."""
        with self._lock:
            if self._socket is None:
                raise self._error if self._error is not None else RuntimeError("dial is not done")
            sock, self._socket = self._socket, None
            return sock

    def abandon(self) -> None:
        """Close the socket now or as soon as there is one."""
        with self._lock:
            self._abandoned = True
            if self._socket is not None:
                self._socket.close()
                self._socket = None
