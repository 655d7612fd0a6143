"""``linguabus members``: who belongs to the fleet."""

from __future__ import annotations

import datetime
import time

import click

from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, pass_settings
from orchestrator.text.table import table

HEADINGS = ("member", "role", "joined", "last seen")


@click.command("members", epilog="Example: linguabus members --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:
    """List who belongs to the fleet and who is invited. This runs on the machine that serves it."""
    from orchestrator.identity.authority import ends_at, fingerprint_text
    from orchestrator.identity.fleet_folder import FleetFolder

    fleet = FleetFolder.of(settings.home)
    with fleet.register() as register:
        members, invited = register.members(), register.invited()
    ends = ends_at(fleet.server_file.read_text("utf-8"))
    if as_json:
        print_json(
            {
                "members": [
                    {"name": m.name, "role": m.role, "joined_at": m.joined_at, "seen_at": m.seen_at} for m in members
                ],
                "invited": [{"name": i.name, "role": i.role, "expires_at": i.expires_at} for i in invited],
                "authority": fingerprint_text(fleet.authority),
                "certificate_ends_at": ends.timestamp(),
            }
        )
        return
    rows = [(m.name, m.role, _day(m.joined_at), _ago(m.seen_at)) for m in members]
    rows += [(i.name, i.role, "invited", f"until {_clock(i.expires_at)}") for i in invited]
    click.echo(table(HEADINGS, rows))
    click.echo(f"servers' certificate: until {ends:%Y-%m-%d}, made anew by 'linguabus serve' in time")


def _day(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s).strftime("%Y-%m-%d")


def _clock(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M")


def _ago(at_s: float | None) -> str:
    if at_s is None:
        return "-"
    seconds = max(0.0, time.time() - at_s)
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit} ago"
    return "a moment ago"
