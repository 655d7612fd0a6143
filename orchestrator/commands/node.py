"""``linguabus node``: becomes ``python -m edge_node``, so that the two packages stay apart."""

from __future__ import annotations

import os
import sys

import click

from orchestrator.commands.settings import Settings, pass_settings


@click.command(
    "node",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False},
    epilog="Example: linguabus node --broker mqtt://192.168.1.5 --insecure --name kitchen-phone",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@pass_settings
def command(settings: Settings, options: tuple[str, ...]) -> None:
    """Lend this device to a fleet; OPTIONS are those of linguabus-node (see: linguabus node --help)."""
    environment = {**os.environ, "LINGUABUS_BROKER": settings.broker, "LINGUABUS_HOME": str(settings.home)}
    flags = ["--insecure"] * settings.insecure + ["-v"] * settings.verbose
    os.execve(sys.executable, [sys.executable, "-m", "edge_node", *flags, *options], environment)
