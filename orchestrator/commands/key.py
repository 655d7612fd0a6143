"""``linguabus key``: a key for a program that asks by HTTP."""

from __future__ import annotations

import click

from orchestrator.commands.host_options import page_option
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, pass_settings
from schemas import names
from schemas.roles import Role


@click.command("key", epilog="Example: linguabus key notebook")
@click.argument("name")
@click.option("--operator", is_flag=True, help="It commands, too: plans, models, drains, members, invitations.")
@click.option("--again", is_flag=True, help="Make a new key for a program that has one; the old one is over.")
@page_option("The page's address, which is told with the key.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_settings
def command(settings: Settings, name: str, operator: bool, again: bool, page: str | None, as_json: bool) -> None:
    """Make a key for a program or a browser that asks by HTTP ('linguabus api').

    It is shown once; 'linguabus revoke NAME' ends it.

    This runs on the machine that serves the fleet.
    """
    from broker.member_key import hash_of, new_key
    from orchestrator.gateway.access_key import key_text
    from orchestrator.identity.fleet_folder import FleetFolder

    if not names.is_name(name):
        raise click.BadParameter(names.RULE, param_hint="NAME")
    fleet = FleetFolder.of(settings.home)
    key = new_key()
    role: Role = "api-operator" if operator else "api"
    with fleet.register() as register:
        register.add_key(name, hash_of(key), role=role, again=again)
    text = key_text(name, key)
    if as_json:
        print_json({"name": name, "key": text, **({"page": page} if page else {})})
        return
    click.echo(text)
    click.echo("keep it: it is not shown again; programs send it as 'Authorization: Bearer KEY'", err=True)
    if page:
        click.echo(f"the page asks for it: {page}/", err=True)
