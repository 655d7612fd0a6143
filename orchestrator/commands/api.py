"""``linguabus api``: the ways in by HTTP."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import click

from broker.option_types import WholeRange
from broker.security import is_loopback
from orchestrator.commands.connection import advised
from orchestrator.commands.host_options import check_own, page_option
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.errors import InsecureAddress
from schemas.roles import BY_HTTP

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from orchestrator.gateway.access import Guard

DEFAULT_PORT = 8480


@click.command("api", epilog="Example: linguabus api --host 192.168.1.5")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=check_own,
    help="Address of this machine to listen on; beyond 127.0.0.1 with TLS, and for who has an API key"
    " ('linguabus key NAME').",
)
@click.option("--port", type=WholeRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option("--keys", "wants_keys", is_flag=True, help="Ask programs of this machine for an API key, too.")
@page_option("Where others find it, if not at that address and port, as behind a container's.")
@bus_options
@pass_settings
def command(settings: Settings, host: str, port: int, wants_keys: bool, page: str | None) -> None:
    """Let programs ask by HTTP, as OpenAI's and Ollama's clients do, and people look at the fleet in a browser.

    It is one more client of the orchestrator, and may start before it or run on another machine. Questions wait as
    those of 'linguabus ask' do, and streams say in comments what for.
    """
    from broker.address import bracketed
    from broker.exit_deadline import end_on_signals
    from broker.security import is_exposed
    from orchestrator.gateway.server import serving_gateway

    address = settings.address
    if is_exposed(address) and not settings.insecure:
        raise InsecureAddress(f"what is asked would cross the network to {address.host} unencrypted: join its fleet")
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        tls, guard = None, None
        if wants_keys or not is_loopback(host):
            tls, guard = _guard(settings, held, on_network=not is_loopback(host))
        home = _home_of_host(settings)
        serving = serving_gateway(address, host=host, port=port, guard=guard, home=home, tls=tls)
        with advised(settings):
            server = held.enter_context(serving)
        end_on_signals(stop.set)
        root = page or f"{'https' if tls else 'http'}://{bracketed(host)}:{server.port}"
        click.echo(f"OpenAI's interface: {root}/v1   Ollama's: {root}   in a browser: {root}/   (stop with Ctrl-C)")
        if guard:
            click.echo("next: linguabus key NAME, for each program that is to ask; --operator for your own browser")
        stop.wait()
    click.echo("stopped")


def _home_of_host(settings: Settings) -> Path | None:
    """The home, where this machine serves the fleet that is asked; None elsewhere."""
    from orchestrator.identity.fleet_folder import FleetFolder

    home = settings.home_if_any
    if home is None:
        return None
    if FleetFolder.exists(home):
        return home if FleetFolder.of(home).authority == settings.address.authority else None
    return home if is_loopback(settings.address.host) and settings.membership is None else None


def _guard(settings: Settings, held: contextlib.ExitStack, *, on_network: bool) -> tuple[ssl.SSLContext | None, Guard]:
    """Who may ask, by the fleet's register, and the fleet's certificate for who asks from elsewhere."""
    from broker.tls import server_context
    from orchestrator.gateway.access import Guard, key_access
    from orchestrator.identity.fleet_folder import FleetFolder

    if not FleetFolder.exists(settings.home):
        raise click.UsageError(
            "API keys are members of a fleet, and there is none in this home: run this on the fleet's host, or make one"
            " by 'linguabus init'"
        )
    fleet = FleetFolder.of(settings.home)
    register = held.enter_context(fleet.register())
    access = key_access(lambda name, key: register.admits(name, key, BY_HTTP))
    guard = Guard(access, lambda name: register.role(name) == "api-operator")
    return server_context(fleet.server_file) if on_network else None, guard
