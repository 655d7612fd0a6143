"""``linguabus init``: make a fleet, whose members alone may connect, over TLS."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from broker.address import DEFAULT_TLS_PORT
from broker.option_types import WholeRange
from orchestrator.commands.host_options import address_option, check_host, check_own
from orchestrator.commands.settings import Settings, pass_settings

HTTP_PORT = 8765
HOST_PORT = DEFAULT_TLS_PORT + 1
ADDRESS = "LINGUABUS_ADDRESS"


@click.command("init", epilog="Example: linguabus init")
@address_option(
    f"A name or address under which devices find this machine, in front of those that are found. [default: {ADDRESS}]",
    envvar=ADDRESS,
)
@click.option("--listen", callback=check_own, metavar="ADDRESS", help="Where to listen. [default: everywhere]")
@click.option(
    "--broker-port",
    type=WholeRange(1, 65535),
    help=f"The broker's port. [default: {DEFAULT_TLS_PORT}]",
)
@click.option(
    "--http-port",
    type=WholeRange(1, 65535),
    help=f"The port for invitations and model parts. [default: {HTTP_PORT}]",
)
@click.option(
    "--host-port",
    type=WholeRange(1, 65535),
    help="The broker's port for programs of this machine, which others can't fill with connections."
    f" [default: {HOST_PORT}]",
)
@click.option(
    "--websocket-port",
    type=WholeRange(0, 65535),
    help="A port on which members' programs in a browser reach the broker, over WebSocket and TLS; 0: none."
    " [default: none]",
)
@click.option(
    "--inside",
    callback=check_host,
    metavar="HOST",
    help="In containers: the name that broker and orchestrator share in the containers' network. Then only --address is"
    " told to devices.",
)
@click.option(
    "--broker-files",
    metavar="DIR",
    help="Where to put the broker's files for one that looks for changes itself, such as one in a container."
    " [default: the fleet's folder]",
)
@click.option(
    "--update", is_flag=True, help="Where there is a fleet, keep it, and change the settings that are given here."
)
@pass_settings
@click.pass_context
def command(
    context: click.Context,
    settings: Settings,
    /,
    addresses: tuple[str, ...],
    listen: str | None,
    broker_port: int | None,
    http_port: int | None,
    host_port: int | None,
    websocket_port: int | None,
    inside: str | None,
    broker_files: str | None,
    update: bool,
) -> None:
    """Make a fleet on this machine: a private certificate authority, keys, and roles for each member.

    Devices join it by invitation. What belongs to it is in the folder "fleet" of --home; nobody else may read it.
    """
    from orchestrator.identity.authority import fingerprint_text
    from orchestrator.identity.broker_files import write_broker_files
    from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings

    changed: dict[str, Any] = {
        # An empty variable is a word, too: none of those that were named before.
        "addresses": addresses if addresses or ADDRESS in os.environ else None,
        "listen": listen,
        "broker_port": broker_port,
        "http_port": http_port,
        "host_port": host_port,
        "websocket_port": websocket_port,
        "inside": inside,
        "broker_files": broker_files and str(Path(broker_files).absolute()),
    }
    changed = {name: value for name, value in changed.items() if value is not None}
    is_update = update and FleetFolder.exists(settings.home)
    if is_update:
        given = replace(FleetFolder.of(settings.home).settings, **changed)
    else:
        ports = {"broker_port": DEFAULT_TLS_PORT, "http_port": HTTP_PORT, "host_port": HOST_PORT}
        given = FleetSettings(**{**ports, **changed})
    ports_given = [port for port in (given.broker_port, given.http_port, given.host_port, given.websocket_port) if port]
    if len(set(ports_given)) < len(ports_given):
        raise click.UsageError(
            "--broker-port, --http-port, --host-port and --websocket-port have to be different ports"
        )
    fleet = FleetFolder.update(settings.home, given) if is_update else FleetFolder.make(settings.home, given)
    with fleet.register() as register:
        write_broker_files(fleet, register)  # so that a broker of one's own can start before 'serve' does
    click.echo(f"fleet: {fleet.path}")
    click.echo(f"authority: {fingerprint_text(fleet.authority)}")
    goes_on = context.find_root().invoked_subcommand != context.info_name  # 'linguabus up' has run this
    if not fleet.settings.broker_files and not goes_on:
        click.echo("next: linguabus serve --with-broker, then, in another terminal: linguabus invite NAME")
