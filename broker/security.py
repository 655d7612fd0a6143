"""Which addresses only this machine can reach, and to which brokers others could read what is sent."""

from __future__ import annotations

import ipaddress

from broker.address import BrokerAddress


def is_loopback(host: str) -> bool:
    """Is this name or address reachable from this machine only?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_exposed(address: BrokerAddress) -> bool:
    """Could others on the network read what is sent to this broker?"""
    return not (address.tls or is_loopback(address.host))
