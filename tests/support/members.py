"""Members of a fleet whose broker tests connect to: made when they are first needed, known by name.

A broker's URL that a test passes on is all that its helpers need: that of a `SecuredBroker` knows its fleet. The URL of
any other broker is left as it is.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from broker.address import BrokerAddress, parse_broker_url
from broker.credential import FILE, Credential
from broker.errors import BrokerRefused, BusError
from broker.free_ports import free_port, free_ports
from broker.member_key import hash_of, new_key
from broker.mqtt import MqttBus
from broker.private_file import write_private
from orchestrator.identity.broker_files import tell_broker, write_broker_files
from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings
from orchestrator.identity.register import ORCHESTRATOR
from schemas.roles import Role
from tests.support.fleet_world import HOST
from tests.support.polling import DEADLINE_S

_FLEET_FILES = ("authority.key", "authority.crt", "server.pem", "register.sqlite3", "broker")
_TURN_S = 0.005


class FleetUrl(str):
    """The URL of a fleet's broker, or of a proxy in front of it, for those who know the fleet by it."""

    members: Members

    def __new__(cls, port: int, members: Members) -> FleetUrl:
        url = super().__new__(cls, f"mqtts://{HOST}:{port}")
        url.members = members
        return url

    @property
    def port(self) -> int:
        """Of the broker, or of the proxy."""
        return parse_broker_url(self).port


class Members:
    """A fleet on loopback, and its members. For any thread."""

    def __init__(self, home: Path, broker_port: int) -> None:
        """Make the fleet, with an orchestrator and an operator, and all that its broker reads."""
        http_port, host_port = free_ports(2)
        settings = FleetSettings(listen=HOST, broker_port=broker_port, http_port=http_port, host_port=host_port)
        self.fleet = FleetFolder.make(home, settings)
        self._lock = threading.Lock()
        own, operator = self.fleet.own_credential(), Credential.load(home / FILE)
        assert operator
        self._operator = operator.name
        self._known = {one.name: one for one in (own, operator)}
        with self.fleet.register() as register:
            write_broker_files(self.fleet, register)

    def move(self, broker_port: int) -> None:
        """The broker is to have this port and others of its own, as somebody else had one of the first."""
        with self._lock:
            http_port, host_port = free_ports(2)
            ports = {"broker_port": broker_port, "http_port": http_port}
            self.fleet = FleetFolder.update(self.home, replace(self.fleet.settings, host_port=host_port, **ports))
            self._known = {name: replace(one, **ports) for name, one in self._known.items()}
            with self.fleet.register() as register:
                write_broker_files(self.fleet, register)

    @property
    def home(self) -> Path:
        """Of the fleet; commands run there as its operator."""
        return self.fleet.path.parent

    @property
    def orchestrator(self) -> Credential:
        """The orchestrator's own: it may read and say everything."""
        return self._known[ORCHESTRATOR]

    @property
    def operator(self) -> Credential:
        """The one that every fleet begins with."""
        return self._known[self._operator]

    def enrol(self, names: Iterable[str], role: Role) -> list[Credential]:
        """Credentials of members, who are made members unless they are, and whom the broker lets in from now on."""
        names = list(names)
        with self._lock:
            new = {name: new_key() for name in names if name not in self._known}
            if new:
                with self.fleet.register() as register:
                    for name, key in new.items():
                        register.add(name, role, hash_of(key))
                    write_broker_files(self.fleet, register)
                self._known |= {name: self.fleet.credential(name, role, key, (HOST,)) for name, key in new.items()}
                if tell_broker(self.fleet):
                    _wait_until_let_in(self._known[next(reversed(new))])
            found = [self._known[name] for name in names]
        assert all(one.role == role for one in found), f"one name, one role: {found}"
        return found

    def serve_from(self, home: Path, broker_port: int) -> None:
        """Let an orchestrator serve the fleet from a home of its own, and find the broker at a port.

        Its server has a free port: several may run at once.
        """
        folder = home / "fleet"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in _FLEET_FILES:
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(self.fleet.path / name)
        settings = replace(self.fleet.settings, http_port=free_port())
        write_private(folder / "fleet.json", json.dumps(asdict(settings)))
        replace(self.orchestrator, broker_port=broker_port).save(folder / "orchestrator.json")
        replace(self.operator, broker_port=broker_port).save(home / FILE)


def credential_at(url: FleetUrl, name: str, role: Role) -> Credential:
    """A member's credential for this way to the broker."""
    (credential,) = url.members.enrol([name], role)
    return replace(credential, broker_port=url.port)


def as_member(url: str, name: str, role: Role) -> str | BrokerAddress:
    """Where a member finds a fleet's broker, with what lets it in; another broker's URL as it is."""
    return credential_at(url, name, role).broker() if isinstance(url, FleetUrl) else url


def as_orchestrator(url: str) -> str | BrokerAddress:
    """The same for somebody who hears and says everything."""
    return replace(url.members.orchestrator, broker_port=url.port).broker() if isinstance(url, FleetUrl) else url


def as_operator(url: str) -> str | BrokerAddress:
    """The same for who asks and commands."""
    return replace(url.members.operator, broker_port=url.port).broker() if isinstance(url, FleetUrl) else url


def _wait_until_let_in(credential: Credential) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            with MqttBus(credential.broker(), client_id=f"{credential.name}-is-new") as bus:
                bus.connect()
            return
        except BrokerRefused:
            assert time.monotonic() < end_s, f"the broker does not let {credential.name} in"
            time.sleep(_TURN_S)  # nobody says when Mosquitto has read its files
        except BusError:
            return  # it is away, and reads them when it starts
