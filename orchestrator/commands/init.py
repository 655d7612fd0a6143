"""``linguabus init``: make a fleet, whose members alone may connect, over TLS."""

from __future__ import annotations

import click

from broker.address import DEFAULT_TLS_PORT
from orchestrator.commands.settings import Settings, pass_settings

HTTP_PORT = 8765


@click.command("init", epilog="Example: linguabus init")
@click.option(
    "--address",
    "addresses",
    metavar="HOST",
    multiple=True,
    help="A name or address under which devices find this machine, in front of those that are found.",
)
@click.option("--listen", metavar="ADDRESS", default="", help="Where to listen. [default: everywhere]")
@click.option(
    "--broker-port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_TLS_PORT,
    show_default=True,
    help="The broker's port.",
)
@click.option(
    "--http-port",
    type=click.IntRange(1, 65535),
    default=HTTP_PORT,
    show_default=True,
    help="The port for invitations and model parts.",
)
@pass_settings
def command(settings: Settings, addresses: tuple[str, ...], listen: str, broker_port: int, http_port: int) -> None:
    """Make a fleet on this machine: a private certificate authority, keys, and roles for each member.

    Devices join it by invitation. What belongs to it is in the folder "fleet" of --home; nobody else may read it.
    """
    from orchestrator.identity.authority import fingerprint_text
    from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings

    for host in (*addresses, *filter(None, [listen])):
        if not host.isascii() or set(host) & set(" /@,\\") or len(host) > 253:
            raise click.BadParameter(f"{host} is no host's name or address")
    given = FleetSettings(addresses=addresses, listen=listen, broker_port=broker_port, http_port=http_port)
    fleet = FleetFolder.make(settings.home, given)
    click.echo(f"fleet: {fleet.path}")
    click.echo(f"authority: {fingerprint_text(fleet.authority)}")
    click.echo("next: linguabus serve --with-broker, then, in another terminal: linguabus invite NAME")
