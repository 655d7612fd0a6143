"""What a TCP connection has sent and received on the wire: as Linux counts it, Android's included."""

from __future__ import annotations

import socket
import struct
import sys

SEGMENT_HEADER_BYTES = 52
"""Of IPv4 and TCP with time stamps; a little more with IPv6."""
TLS_RECORD_BYTES = 22
_COUNTERS = struct.Struct("=QQII")
_AT = 120
"""Where ``struct tcp_info`` has: bytes acknowledged, bytes received, segments sent, segments received (Linux 4.2)."""


def wire_bytes(sock: object) -> tuple[int, int] | None:
    """Bytes sent and received with all headers and empty acknowledgements; None where the system does not say."""
    if not isinstance(sock, socket.socket) or sys.platform not in ("linux", "android"):
        return None  # elsewhere the structure is another one
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        sent, received, segments_out, segments_in = _COUNTERS.unpack_from(info, _AT)
    except (OSError, struct.error):
        return None
    return sent + SEGMENT_HEADER_BYTES * segments_out, received + SEGMENT_HEADER_BYTES * segments_in


def estimated(payload_bytes: int, messages: int) -> int:
    """The same by what was handed to the connection, if each message took a record and a segment of its own."""
    return payload_bytes + messages * (SEGMENT_HEADER_BYTES + TLS_RECORD_BYTES)
