"""A fleet with its broker on free ports of this machine, and members who connect to it as they please."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.credential import Credential
from broker.free_ports import free_ports
from broker.member_key import hash_of, new_key
from broker.mqtt import MqttBus
from orchestrator.identity.broker_files import write_broker_files
from orchestrator.identity.fleet_broker import FleetBroker
from orchestrator.identity.fleet_folder import FleetFolder, FleetSettings
from schemas.roles import Role
from tests.support.repository import ROOT

HOST = "127.0.0.1"


@dataclass(frozen=True)
class FleetWorld:
    """The fleet, and its members' credentials by name."""

    fleet: FleetFolder
    members: Mapping[str, Credential]

    @contextmanager
    def bus(self, name: str, connection: str = "") -> Iterator[MqttBus]:
        """A member's connection."""
        with MqttBus(self.members[name].broker(), client_id=connection or f"{name}-test") as bus:
            bus.connect(timeout_s=10.0)
            yield bus


def invitation_line(fleet: FleetFolder, name: str, *options: str) -> str:
    """What the host's owner reads who invites somebody."""
    command = [sys.executable, "-m", "orchestrator.cli", "--home", str(fleet.path.parent), "invite", name, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def make_fleet(home: Path) -> FleetFolder:
    """A fleet on loopback, on ports that are free now."""
    broker_port, http_port, host_port = free_ports(3)
    settings = FleetSettings(listen=HOST, broker_port=broker_port, http_port=http_port, host_port=host_port)
    return FleetFolder.make(home, settings)


def enrol(fleet: FleetFolder, name: str, role: Role) -> Credential:
    """Make somebody a member without an invitation."""
    key = new_key()
    with fleet.register() as register:
        register.add(name, role, hash_of(key))
        write_broker_files(fleet, register)
    return fleet.credential(name, role, key, (HOST,))


@contextmanager
def fleet_world(home: Path, roles: Mapping[str, Role]) -> Iterator[FleetWorld]:
    """A fleet that is served, and members of these roles by name; the orchestrator is one of them."""
    fleet = make_fleet(home)
    members = {name: enrol(fleet, name, role) for name, role in roles.items()}
    own = fleet.own_credential()
    with FleetBroker(fleet, own):
        yield FleetWorld(fleet, {**members, own.name: own})
