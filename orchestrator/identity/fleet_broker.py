"""Mosquitto for a fleet: TLS, keys and roles, on the addresses that the fleet was made with."""

from __future__ import annotations

import contextlib
import os
from typing import Self

from broker.child_process import ChildProcess, our_environment
from broker.credential import Credential
from broker.errors import BrokerNotFound
from broker.local_broker import STOP_S, find_mosquitto
from broker.readiness import require_free_port, wait_until_ready
from broker.repeating import repeating
from orchestrator.identity.broker_files import configuration_file
from orchestrator.identity.fleet_folder import FleetFolder
from schemas.closing import Closing

_KIND = "mosquitto"
_MOST_LOG_BYTES = 8 << 20
"""Each stranger who connects leaves two lines in the log, and may do that a thousand times a second."""
_KEPT_LOG_BYTES = 1 << 20
_LOOK_S = 2.0


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
        self._log = fleet.broker_folder / "broker.log"
        self._process: ChildProcess | None = None
        self._watch = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start it, and wait until it answers.

        Raises:
            BrokerDidNotStart: its port is in use, it ended, or it stayed silent; says why.
        """
        address = self._credential.broker()
        require_free_port(_KIND, address.host, address.port)
        self._log.write_bytes(b"")
        with self._log.open("ab") as log:  # what is appended goes to the end of a log that was cut, too
            self._process = ChildProcess(self._command, output=log, environment=our_environment())
        try:
            wait_until_ready(_KIND, self._process, address, self._log)
            self._watch.enter_context(repeating(self._cut_log, every_s=_LOOK_S, name="broker's log"))
        except BaseException:
            self.close()
            raise
        return self

    def _cut_log(self) -> None:
        """Begin a long log anew, and keep its end beside it."""
        with contextlib.suppress(OSError):  # such as a full disk; it is tried again
            size_bytes = self._log.stat().st_size
            if size_bytes <= _MOST_LOG_BYTES:
                return
            with self._log.open("rb") as log:
                log.seek(-min(size_bytes, _KEPT_LOG_BYTES), os.SEEK_END)
                end = log.read(_KEPT_LOG_BYTES)
            try:
                self._log.with_suffix(".log.1").write_bytes(end)
            finally:
                os.truncate(self._log, 0)

    def close(self) -> None:
        """End it. Idempotent."""
        self._watch.close()
        process, self._process = self._process, None
        if process is not None:
            process.end(STOP_S)
