"""What a member of a fleet can be."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["node", "client", "operator", "home-assistant", "orchestrator", "api"]
"""Lends its device; asks; commands, too; shows the fleet in a home; serves; asks by HTTP alone, and has no place on the
broker."""
ROLES: tuple[Role, ...] = get_args(Role)
ON_BROKER: tuple[Role, ...] = tuple(role for role in ROLES if role != "api")
"""Those that the broker knows, and that a device can join as."""


def with_article(role: Role) -> str:
    """As it stands in a sentence."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
