"""``linguabus members``: who belongs to the fleet."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, pass_settings
from orchestrator.text.table import table
from schemas.span_text import rough_span

if TYPE_CHECKING:
    from orchestrator.identity.register import Invited

HEADINGS = ("member", "role", "joined", "last seen")


@click.command("members", epilog="Example: linguabus members --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:
    """List who belongs to the fleet and who is invited. This runs on the machine that serves it."""
    from orchestrator.identity.authority import ends_at, fingerprint_text
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.roll import roll

    fleet = FleetFolder.of(settings.home)
    ends = ends_at(fleet.server_file.read_text("utf-8"))
    with fleet.register() as register:
        if as_json:
            authority = fingerprint_text(fleet.authority)
            print_json({**roll(register), "authority": authority, "certificate_ends_at": ends.timestamp()})
            return
        members, invited = register.members(), register.invited()
    rows = [(m.name, m.role, _day(m.joined_at), _ago(m.seen_at)) for m in members]
    rows += [
        (i.name, i.role, "waits" if i.is_shut else "invited", f"until {clock_text(i.expires_at)}") for i in invited
    ]
    click.echo(table(HEADINGS, rows))
    click.echo(door_text(invited))
    click.echo(f"servers' certificate: until {ends:%Y-%m-%d}, made anew by 'linguabus serve' in time")


def _day(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s).strftime("%Y-%m-%d")


def door_text(invited: Sequence[Invited]) -> str:
    """The state of the door in a line."""
    from orchestrator.identity.roll import open_until

    until_s = open_until(invited)
    if until_s is not None:
        return f"door: open until {clock_text(until_s)}, for who is invited"
    waiting = any(one.is_shut for one in invited)
    return f"door: closed; 'linguabus {'permit-join 15m' if waiting else 'invite NAME'}' opens it"


def clock_text(at_s: float) -> str:
    """Day and time."""
    return datetime.datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M")


def _ago(at_s: float | None) -> str:
    if at_s is None:
        return "-"
    seconds = max(0.0, time.time() - at_s)
    return f"{rough_span(seconds)} ago" if seconds >= 60 else "a moment ago"
