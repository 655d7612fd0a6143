"""What only the fleet's host can do: members, invitations, and models on its disk."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from orchestrator.gateway.model_adding import ModelAdding
from orchestrator.identity.errors import NobodyInvited
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.inviting import Wanted, invite
from orchestrator.identity.roll import revoke, roll
from orchestrator.model.errors import ModelError
from orchestrator.model.manifest import Manifest
from orchestrator.model.store import ModelStore
from orchestrator.service.http_server import interface_addresses


class Host:
    """The home of a fleet's host. Its methods read and write files: they are for a thread beside the event loop."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._store = ModelStore(home / "models")
        self.adding = ModelAdding(home)

    @property
    def has_fleet(self) -> bool:
        """Is there a fleet that devices can be invited to? Else its broker is for this machine alone."""
        return FleetFolder.exists(self._home)

    # --- members ----------------------------------------------------------------------------------------------

    def roll(self) -> dict[str, Any]:
        """Members, who is invited, and the door; raises `NoFleet`."""
        with FleetFolder.of(self._home).register() as register:
            return roll(register)

    def invite(self, wanted: Wanted) -> dict[str, Any]:
        """Invite a device: the line for it, and the same as rows of a QR code's dark (1) and light (0) squares.

        Raises:
            NoFleet, HostUnknown, AlreadyMember, OwnMember
        """
        import segno

        made = invite(FleetFolder.of(self._home), wanted, interface_addresses())
        code = segno.make(made.line, error="l", micro=False)
        return {
            "name": wanted.name,
            "role": wanted.role,
            "expires_at": time.time() + wanted.expires_s,
            "line": made.line,
            "ends_another": made.ends_another,
            "squares": ["".join(str(int(dark)) for dark in row) for row in code.matrix],
        }

    def revoke(self, name: str) -> None:
        """End a membership, or an invitation; raises `NoFleet`, `UnknownMember`, `OwnMember`."""
        revoke(FleetFolder.of(self._home), name)

    def permit(self, open_s: float | None) -> None:
        """Open the door for those who are invited, or shut it.

        Raises:
            NoFleet
            NobodyInvited: there is nobody to open it for.
        """
        with FleetFolder.of(self._home).register() as register:
            if open_s is None:
                register.shut()
                return
            register.permit(open_s)
            if not register.invited():
                raise NobodyInvited

    # --- models -----------------------------------------------------------------------------------------------

    def models(self, served: str | None) -> list[dict[str, Any]] | None:
        """The models on the disk; None where the orchestrator serves one that is not among them: it has others."""
        names = self._store.names()
        if served is not None and served not in names:
            return None
        return [_shown(self._store.show(name)) for name in names]

    def manifest(self, name: str) -> Manifest | None:
        """What is known of a model; None where it is not on the disk, or not whole."""
        with contextlib.suppress(ModelError):
            return self._store.show(name)
        return None


def _shown(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "family": manifest.family,
        "precision": manifest.precision,
        "profile": manifest.profile,
        "blocks": manifest.num_layers,
        "weight_bytes": manifest.weight_bytes,
        "context_tokens": manifest.max_context,
    }
