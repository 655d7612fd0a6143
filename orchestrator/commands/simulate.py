"""``linguabus simulate``: plan and play a fleet that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.commands.output import print_json

if TYPE_CHECKING:
    from orchestrator.planning.problem import Problem


@click.command("simulate", epilog="Example: linguabus simulate lingualinked-phones --json")
@click.argument("fleet")
@click.option(
    "--balance",
    type=click.Choice(["on", "off"]),
    default="off",
    show_default=True,
    help="Let the balancer move layers while it plays.",
)
@click.option("--json", "as_json", is_flag=True, help="Print plan and figures as one JSON object.")
def command(fleet: str, balance: str, as_json: bool) -> None:
    """Plan a fleet from a YAML file (or a shipped example, by name) and play its workload.

    An unknown name lists the examples. Nothing is connected to anything.
    """
    from orchestrator.balancing.simulated import SimulatedBalancer
    from orchestrator.planning.simulation.fleetfile import load_fleet
    from orchestrator.planning.simulation.play import play

    balancers: list[SimulatedBalancer] = []

    def balanced(problems: list[Problem]) -> SimulatedBalancer:
        balancers.append(SimulatedBalancer(problems))
        return balancers[0]

    played = play(load_fleet(fleet), balanced if balance == "on" else None)
    if as_json:
        why = [watched.balancer.why() for balancer in balancers for watched in balancer.pipelines]
        print_json({**played.as_dict(), "decisions": why})
    else:
        click.echo(played.as_text())
    if played.report is None:
        raise click.exceptions.Exit(2)
