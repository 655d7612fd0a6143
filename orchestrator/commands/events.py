"""``linguabus events``: what happened in the fleet."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import click

from broker.option_types import WholeRange
from orchestrator.client import Client, NoOrchestrator
from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from schemas.messages import MOST_EVENTS, FleetEvent


@click.command("events", epilog="Example: linguabus events --follow")
@click.option("--follow", is_flag=True, help="Go on with what happens next, until Ctrl-C.")
@click.option("--limit", type=WholeRange(1, MOST_EVENTS), default=50, show_default=True, help="Newest events.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@bus_options
@pass_settings
def command(settings: Settings, follow: bool, limit: int, as_json: bool) -> None:
    """List what happened: nodes that came and went, plans, moves, drains, flags. The last 500 are kept."""
    say = _as_json if as_json else _as_text
    with connect(settings) as client:
        if follow:
            client.listen()
        events = client.past_events(limit).events
        for event in events:
            say(event)
        if not events and not follow:
            click.echo("Nothing has happened yet.", err=True)
        said = {(event.number, event.at_s) for event in events}
        while follow:
            heard = client.events()
            for event in heard:
                if (event.number, event.at_s) not in said:
                    say(event)
            if not heard:
                _look(client)


def _look(client: Client) -> None:
    """Is nothing happening, or is nobody there who would say so?"""
    try:
        client.status()
    except NoOrchestrator as error:
        click.echo(f"{error}; waiting for one", err=True)


def _as_json(event: FleetEvent) -> None:
    print_json(asdict(event), indent=None)


def _as_text(event: FleetEvent) -> None:
    at = datetime.fromtimestamp(event.at_s).isoformat(" ", "seconds")
    click.echo(f"{at}  {'! ' if event.warning else '  '}{event.kind:<9} {event.text}")
