"""``linguabus init``: make a fleet, whose members alone may connect, over TLS."""

from __future__ import annotations

from pathlib import Path

import click

from broker.address import DEFAULT_TLS_PORT
from orchestrator.commands.settings import Settings, pass_settings

HTTP_PORT = 8765
HOST_PORT = DEFAULT_TLS_PORT + 1


@click.command("init", epilog="Example: linguabus init")
@click.option(
    "--address",
    "addresses",
    metavar="HOST",
    multiple=True,
    envvar="LINGUABUS_ADDRESS",
    help="A name or address under which devices find this machine, in front of those that are found."
    " [default: LINGUABUS_ADDRESS]",
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
@click.option(
    "--host-port",
    type=click.IntRange(1, 65535),
    default=HOST_PORT,
    show_default=True,
    help="The broker's port for programs of this machine, which others can't fill with connections.",
)
@click.option(
    "--inside",
    metavar="HOST",
    default="",
    help="In containers: the name that broker and orchestrator share in the containers' network. Then only --address is"
    " told to devices.",
)
@click.option(
    "--broker-files",
    metavar="DIR",
    default="",
    help="Where to put the broker's files for one that looks for changes itself, such as one in a container."
    " [default: the fleet's folder]",
)
@click.option("--update", is_flag=True, help="Where there is a fleet, keep it, and give it these settings.")
@pass_settings
def command(
    settings: Settings,
    addresses: tuple[str, ...],
    listen: str,
    broker_port: int,
    http_port: int,
    host_port: int,
    inside: str,
    broker_files: str,
    update: bool,
) -> None:
    """Make a fleet on this machine: a private certificate authority, keys, and roles for each member.

    Devices join it by invitation. What belongs to it is in the folder "fleet" of --home; nobody else may read it.
    """
    from orchestrator.identity.authority import fingerprint_text
    from orchestrator.identity.broker_files import write_broker_files
    from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings

    for host in (*addresses, *filter(None, [listen, inside])):
        if not host.isascii() or set(host) & set(" /@,\\") or len(host) > 253:
            raise click.BadParameter(f"{host} is no host's name or address")
    if len({broker_port, http_port, host_port}) < 3:
        raise click.UsageError("--broker-port, --http-port and --host-port have to be three ports")
    given = FleetSettings(
        addresses=addresses,
        listen=listen,
        broker_port=broker_port,
        http_port=http_port,
        host_port=host_port,
        inside=inside,
        broker_files=broker_files and str(Path(broker_files).absolute()),
    )
    is_update = update and FleetFolder.exists(settings.home)
    fleet = FleetFolder.update(settings.home, given) if is_update else FleetFolder.make(settings.home, given)
    with fleet.register() as register:
        write_broker_files(fleet, register)  # so that a broker of one's own can start before 'serve' does
    click.echo(f"fleet: {fleet.path}")
    click.echo(f"authority: {fingerprint_text(fleet.authority)}")
    if not broker_files:
        click.echo("next: linguabus serve --with-broker, then, in another terminal: linguabus invite NAME")
