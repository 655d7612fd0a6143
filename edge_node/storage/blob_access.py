"""Which blob servers a node asks, and how: over which connection and with what credential.

Whoever tells a node to load something names the servers. So a URL counts for little: it is asked only where it may be,
an answer that sends on to another address is an error, and what comes has to have the length that was announced before.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import SplitResult, urlsplit

from broker.address import BrokerAddress, bracketed
from broker.tls import client_context
from edge_node.errors import BlobDamaged, BlobUnavailable

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 20.0
"""For the next bytes, and for all headers of an answer."""
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, kw_only=True)
class BlobAccess:
    """How blob servers may be asked.

    A proxy that the environment names is for the world, not for the fleet: it is not to know what devices do.
    """

    hosts: Collection[str] | None = None
    """Hosts, or host:port, that may be asked; None: any, as on a broker that anybody may use."""
    tls: ssl.SSLContext | None = None
    """With it only https:// is asked, without it only http://."""
    authorization: str | None = field(default=None, repr=False)
    """The header of this name; it is sent to no other host, since no answer sends on to one."""

    @classmethod
    def by(cls, broker: BrokerAddress, hosts: Collection[str] | None = None) -> Self:
        """How a node asks that is connected to this broker: a member of a fleet the fleet's host alone.

        ``hosts``: where that is by now, if it may change.
        """
        if broker.authority is None:
            return cls()
        return cls(
            hosts=(broker.host, *broker.other_hosts) if hosts is None else hosts,
            tls=client_context(broker.authority),
            authorization=broker.authorization,
        )

    def check(self, url: str) -> SplitResult:
        """The parts of a URL that may be asked.

        Raises:
            BlobUnavailable: it may not; the message says why.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise BlobUnavailable(f"this is no address: {error}") from None
        scheme = "https" if self.tls else "http"
        if parts.scheme != scheme:
            raise BlobUnavailable(f"blobs are fetched by {scheme}:// only")
        if not host or parts.username is not None or parts.query or parts.fragment:
            raise BlobUnavailable("the address of a blob server is a host, a port and a path, no more")
        named = bracketed(host)
        names = {host, named, f"{named}:{port or (443 if self.tls else 80)}"}
        if self.hosts is not None and names.isdisjoint(self.hosts):
            raise BlobUnavailable(f"{host} is none of the hosts that this node fetches blobs from")
        return parts

    @contextlib.contextmanager
    def open(self, url: str, begin: int, size_bytes: int) -> Iterator[tuple[http.client.HTTPResponse, int]]:
        """Ask for a file of a known size from byte ``begin`` on: the answer, and the byte at which it begins.

        The answer's body ends where the file does; it is at ``begin`` or, where the server can't do that, at 0.

        Raises:
            BlobUnavailable: it may not be asked, or has not this file.
            BlobDamaged: it says that its file is.
            OSError, http.client.HTTPException: the connection failed.
        """
        parts = self.check(url)
        connection = self._connection(parts)
        try:
            connection.connect()
            assert connection.sock
            connection.sock.settimeout(READ_TIMEOUT_S)
            headers = {"Range": f"bytes={begin}-"} if begin else {}
            headers |= {"Authorization": self.authorization} if self.authorization else {}
            with _ending(connection, READ_TIMEOUT_S):
                connection.request("GET", parts.path or "/", headers=headers)
                response = connection.getresponse()
            with response:
                yield response, _begin_of(response, begin, size_bytes)
        finally:
            connection.close()

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        assert parts.hostname
        if self.tls:
            return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT_TIMEOUT_S, context=self.tls)
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT_TIMEOUT_S)


@contextlib.contextmanager
def _ending(connection: http.client.HTTPConnection, limit_s: float) -> Iterator[None]:
    """Cut a connection once the time is up: time-outs of single reads are no limit for a server that sends letters."""
    cut = threading.Timer(limit_s, functools.partial(_cut, connection))
    cut.daemon = True
    cut.start()
    try:
        yield
    finally:
        cut.cancel()


def _cut(connection: http.client.HTTPConnection) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it ended meanwhile
        connection.sock.shutdown(socket.SHUT_RDWR)


def _begin_of(response: http.client.HTTPResponse, begin: int, size_bytes: int) -> int:
    """The byte of the file at which an answer begins, that has all from there on."""
    if response.status == http.client.GONE:
        raise BlobDamaged("the server says that its file is damaged")
    if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
        redirected = " (it sends on to another address, which is not asked)" if 300 <= response.status < 400 else ""
        meaning = http.client.responses.get(response.status, "")
        raise BlobUnavailable(f"the server answers {response.status} {meaning}{redirected}")
    if response.length is None:
        raise BlobUnavailable("the server does not say how many bytes it sends")
    if response.status == http.client.OK:
        begin = 0
    elif not _is_rest(response.getheader("Content-Range") or "", begin, size_bytes):
        raise BlobUnavailable("the server sends another part of the file than it was asked for")
    if response.length != size_bytes - begin:
        raise BlobUnavailable(f"the server would send {response.length} bytes, {size_bytes - begin} are wanted")
    return begin


def _is_rest(told: str, begin: int, size_bytes: int) -> bool:
    found = _RANGE.fullmatch(told)
    return bool(found) and tuple(map(int, found.groups())) == (begin, size_bytes - 1, size_bytes)  # type: ignore[union-attr]
