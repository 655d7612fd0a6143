"""A fleet in one file: what a host needs to be in place of the one that served it, with nobody invited again.

The authority with its key, the register, settings, the host's own credentials, and the orchestrator's database. Not the
servers' certificate, which a host makes for its own addresses, and no models, which are large and secret to nobody.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable
from broker.private_file import write_private
from orchestrator.errors import OrchestratorError
from orchestrator.identity.errors import BackupFailed, BackupUnusable, HomeTaken, OrchestratorRuns
from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings
from orchestrator.identity.sealed import seal, unseal

STATE = "state.sqlite3"
REGISTER = "fleet/register.sqlite3"
MOST_BYTES = 512 << 20
"""Of a backup that is read; one takes a few MB."""
_FORMAT = 1
_NEEDED = ("fleet/authority.key", "fleet/authority.crt", "fleet/fleet.json", "fleet/orchestrator.json", REGISTER)
_OPTIONAL = (FILE, STATE)
_DATABASES = (REGISTER, STATE)
_COPY_S = 30.0
_WAIT_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A fleet's files by their path in its home, when they were taken, and where members found the host then."""

    files: Mapping[str, bytes]
    made_at: float
    addresses: tuple[str, ...]

    @classmethod
    def of(cls, home: Path, addresses: Iterable[str]) -> Self:
        """That of a home, whose orchestrator may be at work; ``addresses``: of the host, as members know it.

        Raises:
            NoFleet, StateUnreadable: there is no fleet that can be used.
            BackupFailed: a file can't be read.
        """
        FleetFolder.of(home)
        names = [*_NEEDED, *(name for name in _OPTIONAL if (home / name).exists())]
        try:
            files = {name: _copy(home / name) if name in _DATABASES else (home / name).read_bytes() for name in names}
        except (OSError, sqlite3.Error) as error:
            raise BackupFailed(f"not all of the fleet in {home} can be read: {error}") from error
        return cls(files=files, made_at=time.time(), addresses=tuple(addresses))

    def sealed(self, passphrase: str) -> bytes:
        """The backup as a file, which this passphrase opens."""
        content = {
            "format": _FORMAT,
            "made_at": self.made_at,
            "addresses": self.addresses,
            "files": {name: base64.b64encode(data).decode() for name, data in self.files.items()},
        }
        return seal(json.dumps(content).encode(), passphrase)

    @classmethod
    def opened(cls, data: bytes, passphrase: str) -> Self:
        """The backup in a file.

        Raises:
            NoSealedFile, NotOpened: it is none, or the passphrase is another.
            BackupUnusable: a newer version made it.
        """
        content = unseal(data, passphrase)
        try:
            given = json.loads(content)
            if given["format"] != _FORMAT:
                raise ValueError("it has another format")
            files = {name: base64.b64decode(text, validate=True) for name, text in given["files"].items()}
            if not set(_NEEDED) <= set(files) <= {*_NEEDED, *_OPTIONAL}:
                raise ValueError("it has other files than a fleet's")
            found = cls(files=files, made_at=float(given["made_at"]), addresses=tuple(map(str, given["addresses"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
            raise BackupUnusable(str(error)) from error
        return found


def restore(backup: Backup, home: Path, settings: Mapping[str, object], *, is_replacing: bool) -> FleetFolder:
    """Put a fleet into a home; if anything is wrong the home stays as it was.

    Args:
        settings: of the fleet, in place of those that it had.
        is_replacing: what is there already is lost.

    Raises:
        HomeTaken: something is there, and is not to be replaced.
        OrchestratorRuns: what is to be replaced is in use.
        BackupUnusable: what the backup has does not fit together.
        OSError: the home can't be written.
    """
    taken = [name for name in ("fleet", *_OPTIONAL) if (home / name).exists()]
    if taken and not is_replacing:
        raise HomeTaken(str(home / taken[0]))
    if STATE in taken:
        _need_unused(home)
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        # Beside what it will replace, so that a rename is all that is left to do.
        staged = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".restore-", dir=home)))
        new, old = staged / "new", staged / "old"
        (new / "fleet").mkdir(parents=True, mode=0o700)
        old.mkdir()
        for name, data in backup.files.items():
            write_private(new / name, data)
        _check(new, settings)
        with _undoing() as undo:
            # The fleet last: without it no command takes the rest for a fleet's home.
            for name in (*_OPTIONAL, "fleet"):
                if (home / name).exists():
                    undo.callback((home / name).rename(old / name).rename, home / name)
                if (new / name).exists():
                    undo.callback((new / name).rename(home / name).rename, new / name)
    return FleetFolder.of(home)


@contextlib.contextmanager
def _undoing() -> Iterator[contextlib.ExitStack]:
    """What is to be done if the context fails, last first."""
    with contextlib.ExitStack() as undo:
        yield undo
        undo.pop_all()


def _check(home: Path, settings: Mapping[str, object]) -> None:
    """Does what is in a backup fit together, and with these settings?"""
    try:
        fleet = FleetFolder.of(home)
        given: FleetSettings = replace(fleet.settings, **settings)  # type: ignore[arg-type]
        fleet = FleetFolder.update(home, given)  # signs a certificate with the authority's key
        own = fleet.own_credential()
        with fleet.register() as register:
            if not register.admits(own.name, own.key):
                raise BackupUnusable("the orchestrator is no member of its fleet")
        for name in _OPTIONAL:
            if name == FILE:
                Credential.load(home / name)
    except (OrchestratorError, CredentialUnusable) as error:
        raise error if isinstance(error, BackupUnusable) else BackupUnusable(str(error)) from error


def _copy(path: Path) -> bytes:
    """A database as it is between two changes, whoever is at work on it."""
    ends_s = time.monotonic() + _COPY_S

    def check_time(_status: int, _left: int, _all: int) -> None:
        if time.monotonic() > ends_s:
            raise sqlite3.OperationalError(f"{path} is locked")

    with (
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)) as source,
        contextlib.closing(sqlite3.connect(":memory:")) as copy,
    ):
        source.backup(copy, progress=check_time)
        (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"{path} is damaged: {found}")
        return copy.serialize()


def _need_unused(home: Path) -> None:
    """Raise `OrchestratorRuns` if somebody has the database open; what its log has is in the file then."""
    with contextlib.closing(sqlite3.connect(home / STATE, timeout=1.0)) as state:
        try:
            state.execute("PRAGMA journal_mode = DELETE")  # needs to be alone
        except sqlite3.OperationalError as error:
            raise OrchestratorRuns(str(home)) from error
        except sqlite3.DatabaseError:
            return  # it is none, and nobody's
