"""The connection of a command to a running orchestrator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from orchestrator.client import Client
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Client]:
    """Connect to the settings' broker; SIGTERM and SIGHUP end the context, and what was asked in it.

    Raises:
        InsecureAddress: prompts and answers would cross the network unencrypted, and nobody allowed that.
        BadBrokerUrl, BrokerUnreachable, BrokerRefused
    """
    from broker.address import parse_broker_url
    from broker.security import is_exposed

    address = parse_broker_url(settings.broker)
    if is_exposed(address) and not settings.insecure:
        raise InsecureAddress(f"what you ask {address.host} would not be encrypted: use mqtts://, or add --insecure")
    with Client.connect(settings.broker) as client, leave_on_signals():
        yield client
