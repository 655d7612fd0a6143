"""``linguabus invite``: one line that lets a device join the fleet."""

from __future__ import annotations

import time

import click

from broker.time_span import seconds_of, span_text
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, pass_settings
from schemas import names
from schemas.roles import Role


@click.command("invite", epilog="Example: linguabus invite kitchen-phone --qr")
@click.argument("name")
@click.option("--client", is_flag=True, help="It asks questions; it lends nothing and commands nothing.")
@click.option("--operator", is_flag=True, help="It asks, and commands: plans, models, drains.")
@click.option(
    "--home-assistant", is_flag=True, help="It shows the fleet in a home, drains nodes and chooses the model."
)
@click.option("--node", is_flag=True, help="It lends itself to the fleet. [default]")
@click.option(
    "--expires",
    "expires_s",
    metavar="TIME",
    default="15m",
    show_default=True,
    callback=seconds_of,
    help="When it ends.",
)
@click.option("--again", is_flag=True, help="Of a member that has lost its key: the old one is good until it joins.")
@click.option("--inside", is_flag=True, help="Of a container beside the fleet's own: it finds them by their name.")
@click.option(
    "--phone", is_flag=True, help="Of a device without linguabus (Termux, Debian): a line that installs it, too."
)
@click.option("--qr", is_flag=True, help="Print it as a QR code, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_settings
def command(
    settings: Settings,
    name: str,
    client: bool,
    operator: bool,
    home_assistant: bool,
    node: bool,
    expires_s: float,
    again: bool,
    inside: bool,
    phone: bool,
    qr: bool,
    as_json: bool,
) -> None:
    """Invite one device, for one use: run what this prints on the device.

    Whoever has the line can join under this name: it opens the fleet's door for that time, and 'linguabus permit-join
    off' shuts it sooner. This runs on the machine that serves the fleet.
    """
    from orchestrator.identity.errors import HostUnknown
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.inviting import Wanted, invite
    from orchestrator.service.http_server import interface_addresses

    given: dict[Role, bool] = {"client": client, "operator": operator, "home-assistant": home_assistant, "node": node}
    roles = [role for role, is_given in given.items() if is_given]
    if len(roles) > 1:
        raise click.UsageError("a member has one role: give one of --client, --operator, --home-assistant and --node")
    role: Role = roles[0] if roles else "node"
    if not names.is_name(name):
        raise click.BadParameter(names.RULE, param_hint="NAME")
    if phone and role != "node":
        raise click.UsageError(f"--phone is for one that lends itself: leave --{role} out")
    wanted = Wanted(name=name, role=role, expires_s=expires_s, again=again, inside=inside, phone=phone)
    try:
        made = invite(FleetFolder.of(settings.home), wanted, interface_addresses())
    except HostUnknown as error:
        raise click.UsageError(str(error)) from None
    line = made.line
    if as_json:
        said = {"name": name, "role": role, "expires_at": time.time() + expires_s, "invitation": str(made.invitation)}
        print_json({**said, "line": line, "ends_another": made.ends_another})
        return
    if made.ends_another:
        click.echo(f"the line that {name} was invited by before is not good any more", err=True)
    click.echo(f"on {name}, within {span_text(expires_s)}:", err=True)
    click.echo(line)
    if qr:
        import segno

        click.echo(_drawn(segno.make(line, error="l")))


def _drawn(code: object) -> str:
    import io

    out = io.StringIO()
    code.terminal(out, compact=True)  # type: ignore[attr-defined]  # segno has no types
    return out.getvalue()
