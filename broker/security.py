"""Which addresses only this machine can reach, which count as one, and to which brokers others read what is sent."""

from __future__ import annotations

import ipaddress

from broker.address import BrokerAddress, parse_broker_url
from broker.errors import BadBrokerUrl

_ONE_HOME = 64
"""Bits of an IPv6 address that are one customer's: who has one such address has 2**64 of them."""


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


def password_warning(broker_option: str) -> str | None:
    """A warning for a broker's URL on a command line: there others can read a password."""
    try:
        has_password = parse_broker_url(broker_option).password is not None
    except BadBrokerUrl:  # which is said elsewhere
        return None
    if not has_password:
        return None
    return "everybody on this machine can read a command line, and the password in --broker: put it in LINGUABUS_BROKER"


def peer_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 network of 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, _ONE_HOME), strict=False))
