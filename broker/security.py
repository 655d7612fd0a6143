"""Which addresses count as this machine."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Is this name or address reachable from this machine only?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
