"""Invitations that the fleet's host gives: who may join, and the line that does it on the device."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from broker.address import bracketed
from broker.tls import fingerprint
from orchestrator.identity.authority import public_key_pin
from orchestrator.identity.errors import HostUnknown
from orchestrator.identity.fleet_folder import FleetFolder
from schemas.invitation import TOKEN_BYTES, Invitation
from schemas.roles import Role

DEFAULT_EXPIRES_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Who is to be invited.

    Attributes:
        expires_s: how long the invitation is good.
        again: a member that has lost its key: the old one is good until it joins.
        inside: a container beside the fleet's own, which finds them by their name.
        phone: a device without linguabus: its line installs it, too. Only for a node.
    """

    name: str
    role: Role = "node"
    expires_s: float = DEFAULT_EXPIRES_S
    again: bool = False
    inside: bool = False
    phone: bool = False


@dataclass(frozen=True)
class IssuedInvitation:
    """An invitation, and the line for a shell of the device; ``ends_another``: an unused one of that name is over."""

    invitation: Invitation
    line: str
    ends_another: bool


def invite(fleet: FleetFolder, wanted: Wanted, found: Sequence[str]) -> IssuedInvitation:
    """Invite one device, for one use.

    Args:
        found: addresses of this machine, as the system knows them.

    Raises:
        HostUnknown: the fleet is in containers, and nobody has told where devices find it.
        AlreadyMember, OwnMember: the name is taken.
    """
    if fleet.settings.inside and not fleet.settings.addresses and not wanted.inside:
        raise HostUnknown
    invitation = Invitation(
        name=wanted.name,
        role=wanted.role,
        addresses=fleet.own_addresses() if wanted.inside else fleet.addresses(found),
        port=fleet.settings.http_port,
        fingerprint=fingerprint(fleet.authority),
        token=secrets.token_bytes(TOKEN_BYTES),
    )
    line = f"linguabus join {invitation}"
    if wanted.phone:
        line = _line_for_phone(invitation, public_key_pin(fleet.server_file.read_text("utf-8")))
    with fleet.register() as register:
        ends_another = register.invite(wanted.name, wanted.role, invitation.token, wanted.expires_s, again=wanted.again)
    return IssuedInvitation(invitation, line, ends_another)


def _line_for_phone(invitation: Invitation, pin: str) -> str:
    """A line for a shell: the script comes from who has the pinned key, or not at all."""
    url = f"https://{bracketed(invitation.addresses[0])}:{invitation.port}/join.sh"
    return f"curl -sSfk --pinnedpubkey {pin} {url} | sh -s {invitation}"
