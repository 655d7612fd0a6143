"""The connection of a command to a running orchestrator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from broker.credential import FILE
from broker.errors import BrokerUnreachable
from orchestrator.client import Client
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress, StateUnreadable
from orchestrator.text.advice import START_THE_FLEET

_LEARN_S = 1.0
"""A command that is over waits so long for the present addresses of the fleet's host."""
_MAKE_ONE = (
    "there is no fleet here yet: make one with 'linguabus up' (or 'linguabus init', then 'linguabus serve"
    " --with-broker'), or join one with 'linguabus join LINE'"
)
_ONLY_A_NODE = (
    "this device lends itself and asks nothing: run 'linguabus invite NAME --client' on the fleet's host, then"
    " 'linguabus join LINE' here"
)


@contextlib.contextmanager
def advised(settings: Settings) -> Iterator[None]:
    """Tell who has named no broker, and has none, how to come to a fleet."""
    try:
        yield
    except BrokerUnreachable as error:
        home = settings.home_if_any
        if settings.broker_is_named or settings.membership or (home and (home / "fleet").exists()):
            raise
        is_node = home is not None and (home / "node" / FILE).exists()
        remedy = _ONLY_A_NODE if is_node else _MAKE_ONE
        raise BrokerUnreachable(error.address, error.reason, remedy) from error


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
    with advised(settings):
        connected = Client.connect(address, remedy=_how_to_start(settings))
    with connected as client, leave_on_signals():
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
