"""One question to the fleet's server over TLS, and no proxy. Standard library only."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping

TIMEOUT_S = 10.0
MOST_BYTES = 64 << 10


def ask(
    host: str,
    port: int,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """HTTP status and body, of which no more than `MOST_BYTES` are read.

    Raises:
        OSError, http.client.HTTPException, ValueError: no answer, or none of HTTP.
    """
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(MOST_BYTES)
    finally:
        connection.close()
