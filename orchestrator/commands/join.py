"""``linguabus join``: become a member of a fleet; a device that is invited to lend itself begins to."""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path

import click

from broker.credential import FILE, Credential
from orchestrator.commands.host_options import address_option
from orchestrator.commands.settings import Settings, pass_settings
from schemas.roles import with_article

_BROKER_S = 5.0
_MOST_CHARACTERS = 4096


@click.command(
    "join",
    epilog="Example: linguabus join linguabus://kitchen-phone@192.168.1.5:8765/node/...",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("invitation", required=False)
@address_option("Of a device that has joined, without an invitation: where the fleet's host is now.")
@click.option("--no-run", is_flag=True, help="Of a node: join, but do not run it now.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@pass_settings
def command(
    settings: Settings, invitation: str | None, addresses: tuple[str, ...], no_run: bool, options: tuple[str, ...]
) -> None:
    """Join the fleet that has invited this device: paste the line that 'linguabus invite' has printed there.

    INVITATION may be @FILE: the line is in a file, and on no command line then. A node then runs, with OPTIONS for
    'linguabus node'; later on 'linguabus node' is enough. The key that the device is known by is made and kept here.

    A device that has joined needs no other invitation when the fleet's host has moved: --address says where to. Key and
    authority stay; a node that is running goes on there by itself.
    """
    if addresses or invitation is None:
        if invitation is not None or not addresses:
            raise click.UsageError("give the line of an invitation, or, on a device that has joined, --address HOST")
        _follow(settings.home, addresses)
        return
    from broker.joining import join
    from schemas.invitation import Invitation

    invited = Invitation.parse(_read(Path(invitation[1:])) if invitation.startswith("@") else invitation)
    is_node = invited.role == "node"
    home = settings.home / "node" if is_node else settings.home
    path = home / FILE
    known = Credential.load(path)
    is_same = known and (known.name, known.role) == (invited.name, invited.role) and _is_of(known, invited.fingerprint)
    if known and not is_same:
        raise click.UsageError(f"this device has joined a fleet as {known.name}: remove {path} to leave it, then join")
    if known is None or not _is_member(known.at(*dict.fromkeys((*invited.addresses, *known.addresses)))):
        joined = join(invited, path)
        await_broker(joined)
        click.echo(f"joined as {joined.name}, {with_article(joined.role)}; the fleet is at {joined.broker()}")
    if invited.role == "home-assistant":
        click.echo(
            f"next: in Home Assistant, Settings > Devices & services > MQTT; name, key and authority are in {path}"
        )
    elif not is_node:
        click.echo("next: linguabus ask 'What is the capital of Japan?'")
    elif no_run:
        click.echo("next: linguabus node")
    else:
        sys.stdout.flush()
        flags = ["-v"] * settings.verbose
        command_line = [sys.executable, "-m", "edge_node", "--home", str(home), *flags, *options]
        os.execve(sys.executable, command_line, {k: v for k, v in os.environ.items() if k != "LINGUABUS_BROKER"})


def _connect(credential: Credential) -> None:
    """Return when the broker has taken this member once; raises `BusError`."""
    from broker.mqtt import MqttBus

    with MqttBus(credential.broker(), client_id=f"joins-{secrets.token_hex(8)}") as bus:
        bus.connect(_BROKER_S)


def _is_member(credential: Credential) -> bool:
    """Does the broker take this key? Where that can't be found out, the key is kept."""
    from broker.errors import BusError, MemberRefused

    said = f"this device has joined as {credential.name} already"
    try:
        _connect(credential)
    except MemberRefused:
        click.echo(f"{credential.name} was a member, and its key is not taken any more: it joins again", err=True)
        return False
    except BusError as error:
        click.echo(f"{said}, and whether it is a member still can't be found out: {error}", err=True)
    else:
        click.echo(said)
    return True


def await_broker(credential: Credential) -> None:
    """Return when the broker takes the new member, which it may hear of a moment later.

    Raises:
        BusError: it does not, or can't be reached.
    """
    from broker.errors import BrokerRefused

    end_s = time.monotonic() + _BROKER_S
    while True:
        try:
            _connect(credential)
            return
        except BrokerRefused:
            if time.monotonic() >= end_s:
                raise
            time.sleep(0.1)  # nothing to wait on: a broker does not say when it has read its files


def _follow(home: Path, addresses: tuple[str, ...]) -> None:
    """Keep where the fleet's host is now, once it has shown there that it is the one.

    Raises:
        BusError: it has not.
    """
    from orchestrator.identity.fleet_folder import FleetFolder

    if FleetFolder.exists(home):
        raise click.UsageError("this is the fleet's host itself: see 'linguabus init --update --address HOST'")
    known = {path: found for path in (home / "node" / FILE, home / FILE) if (found := Credential.load(path))}
    if not known:
        raise click.UsageError(f"nobody in {home} has joined a fleet: ask for an invitation, on its host")
    for path, credential in known.items():
        _connect(credential.at(*addresses))
        credential.at(*dict.fromkeys((*addresses, *credential.addresses))).save(path)
        click.echo(f"{credential.name} finds the fleet at {', '.join(addresses)} now")


def _read(path: Path) -> str:
    """The invitation in a file, as 'linguabus invite' prints it: behind the words of a command, or alone."""
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_MOST_CHARACTERS).strip().removeprefix("linguabus join ")
    except OSError as error:
        raise click.BadParameter(f"{path} can't be read: {error.strerror}", param_hint="INVITATION") from None


def _is_of(credential: Credential, fingerprint: bytes) -> bool:
    from broker import tls

    return tls.fingerprint(credential.authority) == fingerprint
