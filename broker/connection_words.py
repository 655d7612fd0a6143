"""Why a connection came to nothing, in words for people (pure)."""

from __future__ import annotations

import socket
import ssl


def why(error: OSError | UnicodeError) -> str:
    """The reason behind what a socket, TLS or the look-up of a name has raised."""
    if isinstance(error, UnicodeError):
        return "that is no host name"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "no such name"
    return (error.strerror or str(error) or type(error).__name__).lower()
