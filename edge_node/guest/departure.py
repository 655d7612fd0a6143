"""What a device keeps of its fleet, and how it forgets that. An interrupted departure goes on where it was."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable
from edge_node.config import BLOBS
from edge_node.guest.pause import PauseFile
from edge_node.telemetry.system_command import NoReading, output_of

_SERVICE = "linguabus-node"
_SV_TIMEOUT_S = 10.0


class Departure:
    """The end of a membership on the device's side."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._credential = home / FILE
        self._put_away = home / f"{FILE}.leaving"

    @property
    def is_possible(self) -> bool:
        """Has there ever been a node in this home?"""
        return any(path.exists() for path in (self._credential, self._put_away, self._home / BLOBS))

    def member(self) -> Credential | None:
        """Who leaves; None where nobody has joined.

        Raises:
            CredentialUnusable: there is a file that is none.
        """
        put_away = Credential.load(self._put_away)
        try:
            return Credential.load(self._credential) or put_away
        except CredentialUnusable:
            if put_away is None:
                raise
            return put_away

    def begin(self) -> None:
        """See to it that a node which ends does not begin again as a member.

        Raises:
            OSError: it can't be.
        """
        self._tell_supervisor()
        if self._credential.exists():
            self._credential.replace(self._put_away)

    def _tell_supervisor(self) -> None:
        """Termux's services start again what ends, unless they are told otherwise."""
        prefix = os.environ.get("PREFIX")
        service = Path(prefix) / "var/service" / _SERVICE if prefix else None
        if service is None or not service.is_dir() or not shutil.which("sv"):
            return
        if str(self._home.resolve().parent) not in (service / "run").read_text():
            return  # another node's
        (service / "down").touch()
        with suppress(NoReading):
            output_of("sv", "once", _SERVICE, timeout_s=_SV_TIMEOUT_S)

    def finish(self, *, forget_weights: bool) -> int:
        """Remove what is the fleet's; returns how many bytes of model parts went, if they were to.

        Raises:
            OSError: something can't be removed.
        """
        for name in (FILE, f"{FILE}.joining"):
            (self._home / name).unlink(missing_ok=True)
        PauseFile(self._home).remove()
        blobs, freed_bytes = self._home / BLOBS, 0
        if forget_weights and blobs.is_dir():
            freed_bytes = sum(path.stat().st_size for path in blobs.rglob("*") if path.is_file())
            shutil.rmtree(blobs)
        self._put_away.unlink(missing_ok=True)
        return freed_bytes
