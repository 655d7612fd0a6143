"""``linguabus fleet``: a fleet as a whole; ``backup`` and ``restore`` move it to another host."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import click

from orchestrator.commands.host_options import address_option, check_own
from orchestrator.commands.settings import HelpGroup, Settings, pass_settings

PASSPHRASE = "LINGUABUS_PASSPHRASE"
_LEAST_CHARACTERS = 8
_MOST_CHARACTERS = 1024
_passphrase_file = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"The file whose first line is the passphrase. [default: {PASSPHRASE}, or it is asked for]",
)


@click.group("fleet", cls=HelpGroup, epilog="Example: linguabus fleet backup fleet.backup")
def command() -> None:
    """Back up the fleet of this host, or go on with it on another one."""


@command.command("backup", epilog="Example: linguabus fleet backup fleet.backup")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_passphrase_file
@click.option("--force", is_flag=True, help="Replace FILE.")
@pass_settings
def backup(settings: Settings, file: Path, passphrase_file: Path | None, force: bool) -> None:
    """Write the fleet into one encrypted file: its authority, its members, this host's keys, requests and plans.

    Whoever has FILE and its passphrase has the fleet. 'linguabus serve' may go on meanwhile. Models are not in it.
    """
    from broker.private_file import write_private
    from orchestrator.identity.backup import Backup
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.service.http_server import interface_addresses

    addresses = FleetFolder.of(settings.home).addresses(interface_addresses())
    if file.exists() and not force:
        raise click.UsageError(f"{file} exists: choose another name, or add --force")
    if not file.absolute().parent.is_dir():
        raise click.UsageError(f"there is no folder {file.absolute().parent}")
    passphrase = _passphrase(passphrase_file, is_new=True)
    data = Backup.of(settings.home, addresses).sealed(passphrase)
    write_private(file, data)
    click.echo(f"the fleet is in {file}, {len(data) / 1e6:.1f} MB; without the passphrase nobody can read it")
    click.echo("models are not: 'linguabus model export NAME FILE' writes one into a file of its own")


@command.command("restore", epilog="Example: linguabus fleet restore fleet.backup")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@_passphrase_file
@address_option("A name or address under which devices find this machine, as of 'linguabus init'. [default: as before]")
@click.option("--listen", callback=check_own, metavar="ADDRESS", help="Where to listen. [default: as before]")
@click.option("--replace", "is_replacing", is_flag=True, help="Lose the fleet, and the requests, of this --home.")
@pass_settings
def restore(
    settings: Settings,
    file: Path,
    passphrase_file: Path | None,
    addresses: tuple[str, ...],
    listen: str | None,
    is_replacing: bool,
) -> None:
    """Go on with a fleet on this machine, in place of the one that has written FILE, which may not serve any more.

    Members stay members. Those that have an address or a name of this machine find it by themselves; the others need
    'linguabus join --address HOST' once.
    """
    from broker.security import is_loopback
    from orchestrator.identity import backup as backups
    from orchestrator.identity.authority import fingerprint_text
    from orchestrator.identity.broker_files import write_broker_files
    from orchestrator.service.http_server import interface_addresses

    if file.stat().st_size > backups.MOST_BYTES:
        raise click.UsageError(f"{file} is no backup of a fleet: it is too large")
    found = backups.Backup.opened(file.read_bytes(), _passphrase(passphrase_file, is_new=False))
    changed: dict[str, object] = {"addresses": addresses} if addresses else {}
    changed |= {} if listen is None else {"listen": listen}
    fleet = backups.restore(found, settings.home, changed, is_replacing=is_replacing)
    with fleet.register() as register:
        write_broker_files(fleet, register)
        members = len(register.members())
    here = fleet.addresses(interface_addresses())
    click.echo(f"fleet: {fleet.path}, {members} members")
    click.echo(f"authority: {fingerprint_text(fleet.authority)}")
    if not set(here) & set(found.addresses):
        click.echo(
            f"members know the fleet at {', '.join(found.addresses)}, and this machine is {', '.join(here)}: give it an"
            f" address or a name that they know, or run 'linguabus join --address {here[0]}' on each"
        )
    listens = fleet.settings.only_address
    if listens and not is_loopback(listens) and listens not in interface_addresses():
        click.echo(f"{listens}, where it listened, is not of this machine: linguabus init --update --listen ADDRESS")
    click.echo("next: linguabus model add FILE, for each model, then: linguabus serve --with-broker")


def _passphrase(file: Path | None, *, is_new: bool) -> str:
    """From a file, from the environment, or from who sits here; never from the command line, which others can read."""
    if file is not None:
        text = _first_line(file)
    elif PASSPHRASE in os.environ:
        text = os.environ[PASSPHRASE]
    elif sys.stdin.isatty():
        text = click.prompt("passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    else:
        raise click.UsageError(f"nobody is here to be asked for the passphrase: use --passphrase-file or {PASSPHRASE}")
    if not text or len(text) > _MOST_CHARACTERS:
        raise click.UsageError(f"the passphrase is empty, or longer than {_MOST_CHARACTERS} characters")
    if is_new and len(text) < _LEAST_CHARACTERS:
        raise click.UsageError(
            f"a passphrase has {_LEAST_CHARACTERS} characters or more: who has the file can guess for years"
        )
    return text


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                click.echo(f"warning: others on this machine can read {path}: chmod 600 it", err=True)
            return file.readline(_MOST_CHARACTERS + 2).removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise click.UsageError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise click.UsageError(f"{path} is no text in UTF-8") from None
