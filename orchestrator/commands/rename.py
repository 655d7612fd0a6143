"""``linguabus rename``: what people call a node."""

from __future__ import annotations

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.settings import Settings, bus_options, pass_settings


@click.command("rename", epilog='Example: linguabus rename kitchen-phone "Anna\'s old phone"')
@click.argument("node")
@click.argument("label")
@bus_options
@pass_settings
def command(settings: Settings, node: str, label: str) -> None:
    """Call NODE by LABEL where people see it: in "linguabus nodes", on the page, in Home Assistant.

    Its name stays, and commands go on taking that: it is what the node is known by on the broker. An empty LABEL ('')
    takes the label away.
    """
    with connect(settings) as client:
        said = client.rename(node, label)
    click.echo(f"{said.node} is called {said.label}" if said.label else f"{said.node} is called by its name")
