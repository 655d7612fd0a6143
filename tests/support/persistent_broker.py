"""A Mosquitto that finds its retained messages again after it was killed."""

from __future__ import annotations

import getpass
from pathlib import Path

from broker.local_broker import LocalBroker

_LINES = """
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
        *command, configuration = super()._command(port)
        return [*command, str(remembering(Path(configuration), self._database))]


def remembering(configuration: Path, database: Path) -> Path:
    """The same configuration with a database in a folder, in a file of its own."""
    text = configuration.read_text().replace("persistence false\n", "") + _LINES.format(folder=database)
    if "\nuser " not in text:
        text += f"user {getpass.getuser()}\n"  # who may write there
    changed = configuration.with_name("remembering.conf")
    changed.write_text(text)
    return changed
