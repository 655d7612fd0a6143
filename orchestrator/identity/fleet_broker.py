"""Mosquitto for a fleet: TLS, keys and roles, on the addresses that the fleet was made with."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import IO, Self

from broker.address import BrokerAddress
from broker.child_process import ChildProcess, how_ended, our_environment
from broker.credential import Credential
from broker.errors import BrokerDidNotStart, BrokerNotFound, BusError
from broker.local_broker import STOP_S, find_mosquitto
from broker.mqtt import MqttBus
from broker.readiness import wait_until_ready
from orchestrator.identity.bounded_log import BoundedLog
from orchestrator.identity.broker_files import configuration_file
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.fleet_ports import taken_port
from schemas.closing import Closing

_KIND = "mosquitto"
_RUNS = "the fleet's broker runs already: end 'linguabus up', or the other 'linguabus serve --with-broker', first"
_ANSWERS_S = 2.0


def fleet_mosquitto() -> str:
    """The program; raises `BrokerNotFound` where it is not installed: NATS is for one machine."""
    found = find_mosquitto()
    if found is None:
        raise BrokerNotFound("Mosquitto", "install it (apt install mosquitto): a fleet needs its TLS and roles")
    return found


class FleetBroker(Closing):
    """A Mosquitto that ends with this process. A context manager; the fleet's files are there already.

    `restart` starts it again on the same ports, with no memory of the one before.
    """

    def __init__(self, fleet: FleetFolder, credential: Credential) -> None:
        """``credential``: somebody's who may connect.

        Raises:
            BrokerNotFound: Mosquitto is not installed.
        """
        self._command = [fleet_mosquitto(), "-c", str(configuration_file(fleet))]
        self._credential = credential
        self._settings = fleet.settings
        self._log = BoundedLog(fleet.broker_folder / "broker.log")
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            BrokerDidNotStart: its port is in use, it ended, or it stayed silent; says why.
        """
        try:
            self._launch(self._log.open)
        except BaseException:
            self.close()
            raise
        return self

    @property
    def running(self) -> bool:
        """True while its process lives."""
        return self._process is not None and self._process.running

    def how_ended(self) -> str:
        """How its process has ended, in words for people; it waits for that."""
        process = self._process
        return how_ended(process.wait(), self._log.path) if process else "ended"

    def restart(self) -> None:
        """End it, if it runs, and start it again; its log goes on. Raises `BrokerDidNotStart`."""
        self._end_process()
        try:
            self._launch(self._log.reopen)
        except BrokerDidNotStart:
            self._end_process()
            raise

    def close(self) -> None:
        """End it. Idempotent."""
        self._end_process()
        self._log.close()

    def _launch(self, open_log: Callable[[], IO[bytes]]) -> None:
        address = self._credential.broker()
        if taken := taken_port(self._settings):
            raise BrokerDidNotStart(_KIND, _RUNS if _answers(address) else taken)
        with open_log() as log:
            self._process = ChildProcess(self._command, output=log, environment=our_environment())
        wait_until_ready(_KIND, self._process, address, self._log.path)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(STOP_S)


def _answers(address: BrokerAddress) -> bool:
    """Is there the fleet's own broker: one that has its certificate, and lets its member in?"""
    try:
        with MqttBus(address, client_id=f"look-{secrets.token_hex(8)}") as bus:
            bus.connect(timeout_s=_ANSWERS_S)
    except BusError:
        return False
    return True
