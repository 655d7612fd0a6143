"""The register of a fleet: its members, and who is invited. One SQLite file, which several processes may open.

Keys and tokens are here as hashes only.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.database_copy import keep_copy
from broker.member_key import is_key
from orchestrator.errors import unusable
from orchestrator.identity.errors import AlreadyMember, DoorShut, InvitationOver, OwnMember, UnknownMember
from schemas.closing import Closing
from schemas.roles import BY_HTTP, ON_BROKER, Role

MOST_MEMBERS = 1000
ORCHESTRATOR = "orchestrator"
"""The name of the orchestrator itself."""
_BUSY_TIMEOUT_S = 5.0
_RESTORE = "restore it from a backup of the fleet"
_SCHEMAS = (
    """
CREATE TABLE members (
    name TEXT PRIMARY KEY, role TEXT NOT NULL, key_hash TEXT NOT NULL, joined_at REAL NOT NULL, seen_at REAL
);
CREATE TABLE invitations (
    token_hash BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, role TEXT NOT NULL, expires_at REAL NOT NULL, key_hash TEXT
);
""",
    """
ALTER TABLE invitations ADD COLUMN open_until REAL NOT NULL DEFAULT 0;
UPDATE invitations SET open_until = expires_at;
""",
)
"""What each version changed. ``key_hash`` of an invitation: of who has used it, and may have missed the answer;
``open_until``: how long the door is open for it."""


@dataclass(frozen=True)
class Member:
    """A member. Times are seconds since 1970; ``seen_at`` None: never since it joined."""

    name: str
    role: Role
    joined_at: float
    seen_at: float | None


@dataclass(frozen=True)
class Invited:
    """Somebody whose invitation ends at ``expires_at``. Until ``open_until`` the door is open."""

    name: str
    role: Role
    expires_at: float
    open_until: float
    is_shut: bool
    """The door is closed for it now."""


class Register(Closing):
    """The register. For one thread, or for several that take turns."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        """Open it, or make a new one that only its owner can read.

        Raises:
            StateUnreadable: it is damaged, locked or of a newer version.
            StateNotWritable: it is not, and its disk is full or read-only.
        """
        self._now, self._path = now, path
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._migrate(path)
        except (OSError, sqlite3.Error) as error:
            raise unusable(path, error, _RESTORE) from error

    def _migrate(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == len(_SCHEMAS):
            return  # nothing is to be written, for which there may be no room
        self._db.execute("BEGIN IMMEDIATE")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(_SCHEMAS):
            raise sqlite3.DatabaseError("it is of a newer linguabus")
        if 0 < version < len(_SCHEMAS):
            keep_copy(path, version)
        for schema in _SCHEMAS[version:]:
            for statement in filter(str.strip, schema.split(";")):
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    def __exit__(self, *exception: object) -> None:
        """Close the file; what it did not take is told as where it can't be opened."""
        super().__exit__(*exception)
        if isinstance(error := exception[1], sqlite3.Error):
            raise unusable(self._path, error, _RESTORE) from error

    @property
    def version(self) -> int:
        """Changes whenever another process or another `Register` has changed something."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else changes the register meanwhile, in no process, or holds it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    # --- members ----------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """All members by name."""
        rows = self._db.execute("SELECT name, role, joined_at, seen_at FROM members ORDER BY name")
        return [Member(*row) for row in rows]

    def role(self, name: str) -> Role | None:
        """What a member can be; None of who is none."""
        found = self._db.execute("SELECT role FROM members WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def key_hashes(self) -> list[tuple[str, Role, str]]:
        """Name, role and hash of the key, of all members by name."""
        return list(self._db.execute("SELECT name, role, key_hash FROM members ORDER BY name"))

    def add(self, name: str, role: Role, key_hash: str) -> None:
        """Make somebody a member, again if it is one."""
        self._db.execute(
            "INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, NULL)", (name, role, key_hash, self._now())
        )

    def add_key(self, name: str, key_hash: str, *, role: Role = "api", again: bool = False) -> None:
        """Make a program a member, which asks by HTTP alone; ``again``: one that is, and then has another key.

        Args:
            role: one of `BY_HTTP`.

        Raises:
            AlreadyMember: it is one, or somebody else is of that name.
            OwnMember: it is the orchestrator's own.
        """
        self._check_free(name, again=again and self.role(name) in BY_HTTP)
        self.add(name, role, key_hash)

    def _check_free(self, name: str, *, again: bool) -> None:
        """Check that somebody may become a member of this name; ``again``: also who is one."""
        if name == ORCHESTRATOR:
            raise OwnMember(name)
        members = {member.name for member in self.members()}
        if (name in members and not again) or len(members) >= MOST_MEMBERS:
            raise AlreadyMember(name, len(members) >= MOST_MEMBERS)

    def admits(self, name: str, key: str, roles: Collection[Role] = ON_BROKER) -> bool:
        """Is this the key of a member of one of these roles? Takes as long where there is no such member."""
        found = self._db.execute("SELECT key_hash, role FROM members WHERE name = ?", (name,)).fetchone()
        return is_key(key, found[0] if found else _NOBODY) and found is not None and found[1] in roles

    def saw(self, names: list[str]) -> None:
        """Note that these members are there."""
        now_s = self._now()
        self._db.executemany("UPDATE members SET seen_at = ? WHERE name = ?", [(now_s, name) for name in names])

    def revoke(self, name: str) -> None:
        """End a membership, and an invitation of that name.

        Raises:
            UnknownMember: there is neither.
            OwnMember: it is the orchestrator's own.
        """
        if name == ORCHESTRATOR:
            raise OwnMember(name)
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            gone = cursor.execute("DELETE FROM members WHERE name = ?", (name,)).rowcount
            gone += cursor.execute("DELETE FROM invitations WHERE name = ?", (name,)).rowcount
            cursor.execute("COMMIT")
        if not gone:
            raise UnknownMember(name)

    # --- invitations ------------------------------------------------------------------------------------------

    def invite(self, name: str, role: Role, token: bytes, expires_s: float, *, again: bool = False) -> bool:
        """Open the door to who has the token, for so long; was there one of that name, unused, which is over now?

        Args:
            again: somebody who is a member already, who then has another key.

        Raises:
            AlreadyMember: it is one.
            OwnMember: it is the orchestrator's own.
        """
        self._forget_over()
        self._check_free(name, again=again)
        was_invited = any(one.name == name for one in self.invited())
        self._db.execute("DELETE FROM invitations WHERE name = ?", (name,))
        expires_at = self._now() + expires_s
        row = (_hashed(token), name, role, expires_at, expires_at)
        self._db.execute("INSERT INTO invitations VALUES (?, ?, ?, ?, NULL, ?)", row)
        return was_invited

    def invited(self) -> list[Invited]:
        """Whose invitations are neither used nor over."""
        self._forget_over()
        now_s = self._now()
        columns = "name, role, expires_at, open_until, open_until <= ?"
        rows = self._db.execute(f"SELECT {columns} FROM invitations WHERE key_hash IS NULL ORDER BY name", (now_s,))
        return [Invited(name, role, ends, until, bool(shut)) for name, role, ends, until, shut in rows]

    def shut(self) -> None:
        """Let nobody join with an invitation of today, until `permit`."""
        self._db.execute("UPDATE invitations SET open_until = 0")

    def permit(self, for_s: float) -> None:
        """Open the door for so long, or as long as it is open already, to all whose invitations are not over."""
        until_s = self._now() + for_s
        self._db.execute("UPDATE invitations SET open_until = MAX(open_until, MIN(expires_at, ?))", (until_s,))

    def enrol(self, token: bytes, key_hash: str) -> Member:
        """Make who has a token a member. The same one may ask again with the same key: the answer may be lost.

        Raises:
            InvitationOver: the token is unknown, used or too old; which of these, nobody is told.
            DoorShut: it is good, and the door is closed; neither is that told.
        """
        self._forget_over()
        with closing(self._db.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                found = cursor.execute(
                    "SELECT name, role, key_hash, open_until FROM invitations WHERE token_hash = ?", (_hashed(token),)
                ).fetchone()
                if found is None or found[2] not in (None, key_hash):
                    raise InvitationOver
                name, role, known, open_until = found
                if open_until <= self._now():
                    raise DoorShut(name)
                joined_at = self._now()
                if known is None:
                    cursor.execute("UPDATE invitations SET key_hash = ? WHERE name = ?", (key_hash, name))
                    row = (name, role, key_hash, joined_at)
                    cursor.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, NULL)", row)
            finally:
                cursor.execute("COMMIT")
        return Member(name, role, joined_at, None)

    def _forget_over(self) -> None:
        self._db.execute("DELETE FROM invitations WHERE expires_at <= ?", (self._now(),))


def _hashed(token: bytes) -> bytes:
    """A token has 128 random bits: nobody finds it from its hash, nor from how long it takes to look the hash up."""
    return hashlib.sha256(token).digest()


_NOBODY = "$7$101$" + "A" * 16 + "$" + "A" * 86 + "=="
