"""The connection of a command to a running orchestrator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from orchestrator.client import Client
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress, StateUnreadable
from orchestrator.text.advice import START_THE_FLEET

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
    with Client.connect(address, remedy=_how_to_start(settings)) as client, leave_on_signals():
        learns = membership.learn_daily() if membership else None
        yield client
    if learns:
        learns.join(_LEARN_S)


def _how_to_start(settings: Settings) -> str | None:
    """How to start the fleet that is asked, where this machine is its host; None elsewhere, and in containers."""
    from orchestrator.identity.fleet_folder import FleetFolder

    home = None if settings.broker_is_named else settings.home_if_any
    if home is None or not FleetFolder.exists(home):
        return None
    with contextlib.suppress(StateUnreadable):  # it is for who starts it to say so
        fleet = FleetFolder.of(home)
        if fleet.authority == settings.address.authority and not fleet.settings.inside:
            return START_THE_FLEET
    return None
