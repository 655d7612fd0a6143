"""The connection of a command to a running orchestrator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from orchestrator.client import Client
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress

_LEARN_S = 1.0
"""A command that is over waits so long for the present addresses of the fleet's host."""


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Client]:
    """Connect to the settings' broker; SIGTERM and SIGHUP end the context, and what was asked in it.

    Raises:
        InsecureAddress: prompts and answers would cross the network unencrypted, and nobody allowed that.
        BadBrokerUrl, BrokerUnreachable, BrokerRefused
    """
    from broker.security import is_exposed

    membership = settings.membership
    address = membership.broker() if membership else settings.address
    if is_exposed(address):
        if not settings.insecure:
            raise InsecureAddress(
                f"what you ask {address.host} would not be encrypted: join its fleet, or add --insecure"
            )
        click.echo(f"warning: everybody between here and {address.host} can read what you ask", err=True)
    with Client.connect(address) as client, leave_on_signals():
        learns = membership.learn_daily() if membership else None
        yield client
    if learns:
        learns.join(_LEARN_S)
