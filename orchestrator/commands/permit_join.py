"""``linguabus permit-join``: shut the door, whatever invitations there are, or open it again for them."""

from __future__ import annotations

import click

from broker.time_span import seconds_of
from orchestrator.commands.members import clock_text, door_text
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, pass_settings

OFF = "off"


def _seconds_or_off(context: click.Context, parameter: click.Parameter, value: str) -> float | None:
    if value == OFF:
        return None
    try:
        return seconds_of(context, parameter, value)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message}, or off", param=parameter) from None


@click.command("permit-join", epilog="Example: linguabus permit-join off")
@click.argument("open_s", metavar="TIME|off", callback=_seconds_or_off)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_settings
def command(settings: Settings, open_s: float | None, as_json: bool) -> None:
    """Let nobody join, or those again who are invited.

    A fleet's door is closed but for invitations: each opens it for who has it, until it ends. "off" shuts it at once
    for all that are open now; a time such as 15m opens it again for those that have not ended. This runs on the machine
    that serves the fleet.
    """
    from orchestrator.identity.errors import NobodyInvited
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.roll import door

    with FleetFolder.of(settings.home).register() as register:
        if open_s is None:
            register.shut()
        else:
            register.permit(open_s)
        invited = register.invited()
    if open_s is not None and not invited:
        raise NobodyInvited
    if as_json:
        print_json({"door": door(invited)})
        return
    click.echo(door_text(invited))
    for one in invited:
        click.echo(
            f"  {one.name}: {'waits' if one.is_shut else 'may join'}, invited until {clock_text(one.expires_at)}"
        )
