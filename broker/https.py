"""One question to the fleet's server over TLS, and no proxy. Standard library only."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from typing import NamedTuple

TIMEOUT_S = 10.0
MOST_BYTES = 64 << 10


class Answer(NamedTuple):
    """HTTP status, body and headers."""

    status: int
    body: bytes
    headers: http.client.HTTPMessage


def ask(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """What the server answers; of the body no more than `MOST_BYTES` are read.

    Raises:
        OSError, http.client.HTTPException, ValueError: no answer, or none of HTTP.
    """
    connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.read(MOST_BYTES), response.headers)
    finally:
        connection.close()
