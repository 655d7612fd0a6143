"""``linguabus trace``: what became of a request, and why."""

from __future__ import annotations

import re
from dataclasses import asdict

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings


def _request_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-f]{16}", value):
        raise click.BadParameter("a request's id has 16 digits from 0 to f")
    return value


@click.command("trace", epilog="Example: linguabus trace 4f1d0c2a9b3e5867")
@click.argument("request", required=False, callback=_request_id)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@bus_options
@pass_settings
def command(settings: Settings, request: str | None, as_json: bool) -> None:
    """Tell what became of a REQUEST, cause by cause: which event led to which decisions, with seconds since it came.

    Without REQUEST, of the newest one. Nothing of its text is kept. The last 300 requests since the orchestrator's
    start are known; their ids are in its log and in `ask --json`.
    """
    with connect(settings) as client:
        story = client.story(request)
    if as_json:
        print_json(asdict(story))
        return
    click.echo(f"request {story.request}, {'ended' if story.ended else 'not ended yet'}")
    for entry in story.entries:
        click.echo(f"{entry.after_s:10.3f} s  {entry.cause}")
        for decision in entry.decisions:
            click.echo(f"{'':14}-> {decision}")
    if story.left_out:
        click.echo(f"({story.left_out} entries of the middle were dropped)")
