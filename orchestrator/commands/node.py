"""``linguabus node``: becomes ``python -m edge_node``, so that the two packages stay apart; ``node drain``."""

from __future__ import annotations

import os
import sys
import time

import click
from click.core import ParameterSource

from broker.config_file import VARIABLE, config_of
from broker.option_types import FiniteRange
from orchestrator.commands.connection import connect
from orchestrator.commands.settings import Settings, bus_options, pass_settings

_ASK_AGAIN_S = 0.5


class NodeGroup(click.Group):
    """A command that runs a node, unless its first word is a sub-command; what follows is for ``linguabus-node``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return ctx.args


@click.group(
    "node",
    cls=NodeGroup,
    invoke_without_command=True,
    add_help_option=False,
    options_metavar="[OPTIONS]...",
    subcommand_metavar="| drain NAME",
    epilog="Example: linguabus node --broker mqtt://192.168.1.5 --insecure --name kitchen-phone",
)
@pass_settings
@click.pass_context
def command(context: click.Context, settings: Settings) -> None:
    """Lend this device to a fleet; OPTIONS are those of linguabus-node (see: linguabus node --help)."""
    if context.invoked_subcommand is not None:
        return
    environment = dict(os.environ)
    # What the file says, the node reads there itself: as more than that it would go before the node's own section.
    if settings.broker_is_named and settings.broker_source is not ParameterSource.DEFAULT_MAP:
        environment["LINGUABUS_BROKER"] = settings.broker
    if settings.given_home is not None and not _is_in_file(context, "home"):
        environment["LINGUABUS_HOME"] = str(settings.given_home)
    if config := config_of(context):
        environment[VARIABLE] = str(config.path.absolute())
    flags = ["--insecure"] * settings.insecure + ["-v"] * settings.verbose
    os.execve(sys.executable, [sys.executable, "-m", "edge_node", *flags, *context.args], environment)


def _is_in_file(context: click.Context, parameter: str) -> bool:
    return context.find_root().get_parameter_source(parameter) is ParameterSource.DEFAULT_MAP


@command.command("drain", epilog="Example: linguabus node drain kitchen-phone")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let it have layers again.")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(0.1, 86_400),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it is empty.",
)
@bus_options
@pass_settings
def drain(settings: Settings, name: str, undo: bool, timeout_s: float) -> None:
    """Let others take over a node's layers, wait until it holds none, and give it none until --undo.

    The orchestrator remembers it, also over a restart. Without others that can hold the model the node keeps its layers
    until there are some.
    """
    from orchestrator.client import NodeKeepsLayers, NodeStillHolds

    ends_s = time.monotonic() + timeout_s
    with connect(settings) as client:
        said = client.drain(name, undo=undo)
        while said.holds and not undo:
            if said.stays:
                raise NodeKeepsLayers(name, said.stays)
            if time.monotonic() >= ends_s:
                raise NodeStillHolds(name, said.holds, timeout_s)
            time.sleep(_ASK_AGAIN_S)
            said = client.drain(name)
    if not undo:
        click.echo(f"{name} holds no layers and is given none: stop it whenever you like")
    elif said.drained:
        click.echo(f"{name} is no longer drained by you, but is given no layers: {said.drained}")
    else:
        click.echo(f"{name} may have layers again")
