"""TLS towards the servers of a fleet, whose private authority is the only one that is believed."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path


def client_context(authority_pem: str) -> ssl.SSLContext:
    """A context that believes certificates of this authority, for the host that was asked, and no others.

    Raises:
        ssl.SSLError: that is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # with host names checked, and certificates required
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority_pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """A context that believes anybody: for asking what is compared with something known, and telling nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def fingerprint(authority_pem: str) -> bytes:
    """The SHA-256 of a certificate.

    Raises:
        ValueError: that is no certificate.
    """
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority_pem)).digest()


def server_context(server_file: Path) -> ssl.SSLContext:
    """A context for a server with key and certificate in this file.

    Raises:
        OSError, ssl.SSLError: there are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(server_file)
    return context
