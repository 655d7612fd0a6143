"""A fleet that an orchestrator serves, with its broker and its server, and members who try what they may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.identity.fleet_broker import FleetBroker
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.membership import Membership
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from schemas.roles import Role
from tests.support.fleet_world import HOST, FleetWorld, enrol, make_fleet
from tests.support.services import running_service


@contextmanager
def served_fleet(home: Path, store: ModelStore, roles: Mapping[str, Role], **settings: Any) -> Iterator[FleetWorld]:
    """As `fleet_world`, with an orchestrator that serves the models of a store; ``settings`` are further ones of it."""
    fleet = make_fleet(home)
    if prefix := settings.get("home_assistant"):
        fleet = FleetFolder.update(home, replace(fleet.settings, home_assistant=prefix))
    members = {name: enrol(fleet, name, role) for name, role in roles.items()}
    own = fleet.own_credential()
    config = ServiceConfig(
        broker_url=own.broker(),
        data_dir=home / "state",
        models_dir=store.home,
        blob_host=HOST,
        blob_port=fleet.settings.http_port,
        is_guarded=True,
        **settings,
    )
    with (
        Membership(fleet, lambda: ()) as membership,
        FleetBroker(fleet, own),
        running_service(config, membership=membership),
    ):
        yield FleetWorld(fleet, {**members, own.name: own})
