"""The broker that tests have: a fleet's Mosquitto, with TLS, keys and roles."""

from __future__ import annotations

from pathlib import Path

from broker.address import BrokerAddress
from broker.local_broker import LocalBroker
from orchestrator.identity.broker_files import configuration_file
from tests.support.members import FleetUrl, Members, as_orchestrator
from tests.support.persistent_broker import remembering


class SecuredBroker(LocalBroker):
    """Started and ended as a `LocalBroker`. Its fleet is as old as itself, and stays when it is started again."""

    members: Members

    def __init__(self, *, folder: Path | None = None, remembers: bool = False) -> None:
        """``remembers``: it has its retained messages again after it was killed."""
        super().__init__("mosquitto", folder=folder)
        self._remembers = remembers

    @property
    def url(self) -> FleetUrl:
        """The address for the helpers of tests."""
        return FleetUrl(self.port, self.members)

    @property
    def _address(self) -> str | BrokerAddress:
        return as_orchestrator(self.url)

    def _command(self, port: int) -> list[str]:
        assert self._folder is not None
        if not self.port:
            self.members = Members(self._folder, port)
        elif port != self.port:
            self.members.move(port)
        configuration = configuration_file(self.members.fleet)
        if self._remembers:
            configuration = remembering(configuration, self._folder)
        return [self._program, "-c", str(configuration)]
