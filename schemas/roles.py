"""What a member of a fleet can be."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["node", "client", "operator", "home-assistant", "orchestrator", "api", "api-operator"]
"""Lends its device; asks; commands, too; shows the fleet in a home; serves; asks by HTTP alone, and has no place on the
broker; asks and commands by HTTP alone."""
ROLES: tuple[Role, ...] = get_args(Role)
BY_HTTP: tuple[Role, ...] = ("api", "api-operator")
"""Those that have an API key."""
ON_BROKER: tuple[Role, ...] = tuple(role for role in ROLES if role not in BY_HTTP)
"""Those that the broker knows, and that a device can join as."""


def with_article(role: Role) -> str:
    """As it stands in a sentence."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
