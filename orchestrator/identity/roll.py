"""The roll of a fleet for programs: members, who is invited, and the door; and how a membership ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.identity.broker_files import tell_broker, write_broker_files
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.register import Invited, Register


def roll(register: Register) -> dict[str, Any]:
    """Members and invited by name, times in seconds since 1970."""
    invited = register.invited()
    return {
        "members": [
            {"name": one.name, "role": one.role, "joined_at": one.joined_at, "seen_at": one.seen_at}
            for one in register.members()
        ],
        "invited": [
            {"name": one.name, "role": one.role, "expires_at": one.expires_at, "waits": one.is_shut} for one in invited
        ],
        "door": door(invited),
    }


def door(invited: Sequence[Invited]) -> dict[str, Any]:
    """Is the door open for anybody, and until when?"""
    until_s = open_until(invited)
    return {"open": until_s is not None, "open_until": until_s}


def open_until(invited: Sequence[Invited]) -> float | None:
    """When the door shuts by itself, in seconds since 1970; None where it is shut."""
    return max((one.open_until for one in invited if not one.is_shut), default=None)


def revoke(fleet: FleetFolder, name: str) -> None:
    """End a membership, and an invitation of that name; the broker knows at once.

    Raises:
        UnknownMember: there is neither.
        OwnMember: it is one of the host's own.
    """
    fleet.check_revocable(name)
    with fleet.register() as register:
        register.revoke(name)
        if write_broker_files(fleet, register):
            tell_broker(fleet)
