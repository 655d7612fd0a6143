"""``linguabus simulate``: plan and play a fleet that is not there."""

from __future__ import annotations

import click

from orchestrator.commands.output import print_json


@click.command("simulate", epilog="Example: linguabus simulate lingualinked-phones --json")
@click.argument("fleet")
@click.option("--json", "as_json", is_flag=True, help="Print plan and figures as one JSON object.")
def command(fleet: str, as_json: bool) -> None:
    """Plan a fleet from a YAML file (or a shipped example, by name) and play its workload.

    An unknown name lists the examples. Nothing is connected to anything.
    """
    from orchestrator.planning.fleetfile import load_fleet
    from orchestrator.planning.play import play

    played = play(load_fleet(fleet))
    if as_json:
        print_json(played.as_dict())
    else:
        click.echo(played.as_text())
    if played.report is None:
        raise click.exceptions.Exit(2)
