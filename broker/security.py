"""Which addresses only this machine can reach, and to which brokers others could read what is sent."""

from __future__ import annotations

import ipaddress

from broker.address import BrokerAddress, parse_broker_url
from broker.errors import BadBrokerUrl


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
