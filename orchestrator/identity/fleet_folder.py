"""A fleet on the disk of the machine that serves it: authority, server's certificate, register, and own credentials.

Everything is in one folder that only its owner can enter.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable
from broker.member_key import hash_of, new_key
from broker.private_file import write_private
from broker.security import is_loopback
from orchestrator.errors import StateUnreadable
from orchestrator.identity.authority import is_good_for, make_authority, make_server
from orchestrator.identity.errors import FleetExists, NoFleet, OwnMember
from orchestrator.identity.register import ORCHESTRATOR, Register
from schemas.names import name_from
from schemas.roles import Role

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """What a fleet was made with.

    Attributes:
        addresses: names and addresses of the host that people have given, in front of those that are found.
        listen: the address to listen on; empty: all.
        broker_port, http_port: of the broker, and of the orchestrator's server.
        host_port: the broker's for programs of this machine alone, so that whoever fills the other one with connections
            locks neither orchestrator nor operator out.
        inside: in containers, the name of both servers in the containers' own network; empty: no containers. What such
            a host finds of addresses of its own is of no use to others.
        broker_files: the folder of what the broker reads, where a broker that this machine can't send a signal to
            reads it, again whenever it changes; empty: the broker runs on this machine.
        home_assistant: the prefix of Home Assistant's discovery, where the fleet announces itself; empty: nowhere.
        websocket_port: the broker's for programs in a browser; 0: none.
    """

    addresses: tuple[str, ...] = ()
    listen: str = ""
    inside: str = ""
    broker_files: str = ""
    broker_port: int
    http_port: int
    host_port: int
    home_assistant: str = ""
    websocket_port: int = 0

    @property
    def only_address(self) -> str:
        """The one address to listen on; empty where that is all of them."""
        return "" if self.listen in ("0.0.0.0", "::") else self.listen


class FleetFolder:
    """The folder of a fleet."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            NoFleet: there is none.
            StateUnreadable: its settings can't be read.
        """
        self.path = path
        try:
            given = json.loads((path / "fleet.json").read_text("utf-8"))
            self.settings = FleetSettings(**{**given, "addresses": tuple(given["addresses"])})
            self.authority = (path / "authority.crt").read_text("utf-8")
        except FileNotFoundError:
            raise NoFleet(str(path.parent)) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateUnreadable(f"the fleet in {path} can't be read: {error}; restore it from a backup") from error

    @classmethod
    def of(cls, home: Path) -> Self:
        """The fleet of a home; raises as the constructor does."""
        return cls(home / "fleet")

    @staticmethod
    def exists(home: Path) -> bool:
        """Is there a fleet in this home?"""
        return (home / "fleet" / "fleet.json").is_file()

    @classmethod
    def make(cls, home: Path, settings: FleetSettings) -> Self:
        """Make a fleet with two members, who belong to this machine: the orchestrator, and its operator.

        Raises:
            FleetExists: there is one.
            OSError: its files can't be written.
        """
        path = home / "fleet"
        if cls.exists(home):
            raise FleetExists(str(path))
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        key, authority = make_authority()
        write_private(path / "authority.key", key)
        write_private(path / "authority.crt", authority)
        _write_settings(path, settings)
        fleet = cls(path)
        fleet.renew_server()
        with fleet.register() as register:
            own: tuple[tuple[str, Role, Path], ...] = (
                (ORCHESTRATOR, "orchestrator", fleet.credential_file),
                (_operator_name(), "operator", home / FILE),
            )
            for name, role, file in own:
                own_key = new_key()
                register.add(name, role, hash_of(own_key))
                fleet._own(name, role, own_key).save(file)
        return fleet

    @classmethod
    def update(cls, home: Path, settings: FleetSettings) -> Self:
        """Give a fleet other settings: its authority and its members stay, its own credentials follow.

        Raises:
            NoFleet, StateUnreadable, CredentialUnusable
            OSError: its files can't be written.
        """
        if not cls.exists(home):
            raise NoFleet(str(home))
        _write_settings(home / "fleet", settings)
        fleet = cls.of(home)
        for file in (fleet.credential_file, home / FILE):
            if own := Credential.load(file):
                fleet._own(own.name, own.role, own.key).save(file)
        fleet.renew_server()
        return fleet

    # --- files ------------------------------------------------------------------------------------------------

    @property
    def server_file(self) -> Path:
        """The servers' private key and certificate, in one file, so that they always fit."""
        return self.path / "server.pem"

    @property
    def credential_file(self) -> Path:
        """The orchestrator's own credential."""
        return self.path / "orchestrator.json"

    @property
    def broker_folder(self) -> Path:
        """What the broker reads."""
        return Path(self.settings.broker_files or self.path / "broker")

    def own_credential(self) -> Credential:
        """The orchestrator's own; raises `CredentialUnusable`."""
        found = Credential.load(self.credential_file)
        if found is None:
            raise CredentialUnusable(str(self.credential_file), "it is not there")
        return found

    def check_revocable(self, name: str) -> None:
        """The operator of this machine, as whom the commands here ask, stays.

        Raises:
            OwnMember: that is its name.
        """
        with contextlib.suppress(CredentialUnusable):
            own = Credential.load(self.path.parent / FILE)
            if own and (own.name, own.authority) == (name, self.authority):
                raise OwnMember(name, "this host's own operator, as whom its commands ask")

    def register(self) -> Register:
        """The register, opened; raises `StateUnreadable`."""
        return Register(self.path / "register.sqlite3")

    # --- who and where ----------------------------------------------------------------------------------------

    def own_addresses(self) -> tuple[str, ...]:
        """Where this machine finds the fleet's servers itself."""
        if self.settings.inside:
            return (self.settings.inside,)
        return (self.settings.only_address or LOOPBACK[0],)

    def addresses(self, found: Iterable[str]) -> tuple[str, ...]:
        """Where members find the fleet's servers, the best first; ``found``: this machine's own addresses."""
        if self.settings.only_address:
            return tuple(dict.fromkeys((*self.settings.addresses, self.settings.only_address)))
        others = [] if self.settings.inside else [address for address in found if not is_loopback(address)]
        return tuple(dict.fromkeys((*self.settings.addresses, *others))) or self.own_addresses()

    def credential(self, name: str, role: Role, key: str, addresses: tuple[str, ...]) -> Credential:
        """A credential for a member of this fleet."""
        return Credential(
            name=name,
            role=role,
            key=key,
            authority=self.authority,
            addresses=addresses,
            broker_port=self.settings.broker_port,
            http_port=self.settings.http_port,
        )

    def _own(self, name: str, role: Role, key: str) -> Credential:
        """A credential for a program of this machine."""
        credential = self.credential(name, role, key, (self.settings.inside or LOOPBACK[0],))
        return replace(credential, broker_port=self.settings.host_port)

    def renew_server(self, found: Iterable[str] = ()) -> bool:
        """Have a server's certificate that is good for a while and names all addresses; was a new one made?

        Raises:
            StateUnreadable: the authority's key can't be read.
        """
        hosts = dict.fromkeys((*self.addresses(found), *self.own_addresses(), *LOOPBACK, socket.gethostname()))
        names = [host for host in hosts if host.isascii() and len(host) < 64]
        with contextlib.suppress(OSError):
            if is_good_for(self.server_file.read_text("utf-8"), names):
                return False
        try:
            key, certificate = make_server((self.path / "authority.key").read_text("utf-8"), self.authority, names)
            write_private(self.server_file, key + certificate + self.authority)
        except (OSError, ValueError) as error:
            raise StateUnreadable(f"no certificate can be made in {self.path}: {error}") from error
        return True


def _write_settings(path: Path, settings: FleetSettings) -> None:
    write_private(path / "fleet.json", json.dumps(asdict(settings), indent=1))


def _operator_name() -> str:
    """The operator's name on this machine."""
    return name_from(f"operator-{socket.gethostname()}") or "operator"
