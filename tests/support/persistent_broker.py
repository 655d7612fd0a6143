"""A Mosquitto that finds its retained messages again after it was killed."""

from __future__ import annotations

import getpass
from pathlib import Path

from broker.local_broker import LocalBroker

_LINES = """
user {user}
persistence true
persistence_location {folder}/
# Saves each change, a moment later.
autosave_on_changes true
autosave_interval 1
"""


class PersistentBroker(LocalBroker):
    """Mosquitto with its database in ``folder``. After `kill` it starts again with `restart`, on the same port."""

    def __init__(self, folder: Path) -> None:
        super().__init__("mosquitto", folder=folder)
        self._database = folder

    def _command(self, port: int) -> list[str]:
        command = super()._command(port)
        configuration = Path(command[-1])
        lines = _LINES.format(user=getpass.getuser(), folder=self._database)
        configuration.write_text(configuration.read_text().replace("persistence false\n", "") + lines)
        return command
