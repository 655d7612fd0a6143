"""``linguabus api``: the ways in by HTTP."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import click

from broker.security import is_loopback
from orchestrator.commands.host_options import check_own
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.errors import InsecureAddress
from schemas.roles import Role

if TYPE_CHECKING:
    import ssl

    from orchestrator.service.http_access import Access

DEFAULT_PORT = 8480
API: tuple[Role, ...] = ("api",)


@click.command("api", epilog="Example: linguabus api --host 192.168.1.5")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    callback=check_own,
    help="Address of this machine to listen on; beyond 127.0.0.1 with TLS, and for who has an API key"
    " ('linguabus key NAME').",
)
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option("--keys", "wants_keys", is_flag=True, help="Ask programs of this machine for an API key, too.")
@bus_options
@pass_settings
def command(settings: Settings, host: str, port: int, wants_keys: bool) -> None:
    """Let programs ask by HTTP, as OpenAI's and Ollama's clients do.

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
        tls, access = None, None
        if wants_keys or not is_loopback(host):
            tls, access = _guard(settings, held, on_network=not is_loopback(host))
        with serving_gateway(address, host=host, port=port, access=access, tls=tls) as server:
            end_on_signals(stop.set)
            root = f"{'https' if tls else 'http'}://{bracketed(host)}:{server.port}"
            click.echo(f"OpenAI's interface: {root}/v1   Ollama's: {root}   (stop with Ctrl-C)")
            if access:
                click.echo("next: linguabus key NAME, for each program that is to ask")
            stop.wait()
    click.echo("stopped")


def _guard(settings: Settings, held: contextlib.ExitStack, *, on_network: bool) -> tuple[ssl.SSLContext | None, Access]:
    """Who may ask, by the fleet's register, and the fleet's certificate for who asks from elsewhere."""
    from broker.tls import server_context
    from orchestrator.gateway.access import key_access
    from orchestrator.identity.fleet_folder import FleetFolder

    if not FleetFolder.exists(settings.home):
        raise click.UsageError(
            "API keys are members of a fleet, and there is none in this home: run this on the fleet's host, or make one"
            " by 'linguabus init'"
        )
    fleet = FleetFolder.of(settings.home)
    register = held.enter_context(fleet.register())
    access = key_access(lambda name, key: register.admits(name, key, API))
    return server_context(fleet.server_file) if on_network else None, access
