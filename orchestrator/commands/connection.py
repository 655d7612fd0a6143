"""The way from a command to a running orchestrator."""

from __future__ import annotations

from orchestrator.client import Client
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress


def connect(settings: Settings) -> Client:
    """A client on the settings' broker.

    Raises:
        InsecureAddress: prompts and answers would cross the network unencrypted, and nobody allowed that.
        BadBrokerUrl, BrokerUnreachable, BrokerRefused
    """
    from broker.address import parse_broker_url
    from broker.security import is_exposed

    address = parse_broker_url(settings.broker)
    if is_exposed(address) and not settings.insecure:
        raise InsecureAddress(f"what you ask {address.host} would not be encrypted: use mqtts://, or add --insecure")
    return Client.connect(settings.broker)
