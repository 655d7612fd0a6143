"""``linguabus revoke``: end a membership, at once."""

from __future__ import annotations

import click

from orchestrator.commands.settings import Settings, pass_settings


@click.command("revoke", epilog="Example: linguabus revoke kitchen-phone")
@click.argument("name")
@pass_settings
def command(settings: Settings, name: str) -> None:
    """End a membership: its connection ends within two seconds, and it gets no model parts any more.

    An invitation of that name ends, too. This runs on the machine that serves the fleet.
    """
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.roll import revoke

    revoke(FleetFolder.of(settings.home), name)
    click.echo(f"{name} is no member any more")
