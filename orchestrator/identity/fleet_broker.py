"""Mosquitto for a fleet: TLS, keys and roles, on the addresses that the fleet was made with."""

from __future__ import annotations

import time
from typing import Self

from broker.child_process import ChildProcess, our_environment
from broker.credential import Credential
from broker.errors import BrokerDidNotStart, BrokerNotFound, BusError
from broker.local_broker import STOP_S, find_mosquitto
from broker.mqtt import MqttBus
from orchestrator.identity.bounded_log import BoundedLog
from orchestrator.identity.broker_files import configuration_file
from orchestrator.identity.fleet_folder import FleetFolder
from schemas.closing import Closing

_START_S = 15.0


class FleetBroker(Closing):
    """A Mosquitto that ends with this process. A context manager; the fleet's files are there already."""

    def __init__(self, fleet: FleetFolder, credential: Credential) -> None:
        """``credential``: somebody's who may connect.

        Raises:
            BrokerNotFound: Mosquitto is not installed; the embedded broker knows no TLS.
        """
        found = find_mosquitto()
        if found is None:
            raise BrokerNotFound("Mosquitto", "install it (apt install mosquitto): a fleet needs its TLS and roles")
        self._command = [found, "-c", str(configuration_file(fleet))]
        self._credential = credential
        self._log = BoundedLog(fleet.broker_folder / "broker.log")
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            BrokerDidNotStart: it ended, or stayed silent; carries the last line of its log.
        """
        try:
            with self._log.open() as log:
                self._process = ChildProcess(self._command, output=log, environment=our_environment())
            self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def _wait_until_ready(self, process: ChildProcess) -> None:
        end_s, last = time.monotonic() + _START_S, ""
        while process.running and time.monotonic() < end_s:
            try:
                with MqttBus(self._credential.broker(), client_id="ready") as bus:
                    bus.connect(timeout_s=2.0)
                time.sleep(0.05)  # one that could not bind has ended by now, and somebody else answered
                if process.running:
                    return
            except BusError as error:
                last = str(error)
                time.sleep(0.05)  # nothing to wait on: the port is not open yet
        raise BrokerDidNotStart("mosquitto", self._log.last_line() or last)

    def close(self) -> None:
        """End it. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.end(STOP_S)
        self._log.close()
