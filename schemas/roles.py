"""What a member of a fleet can be."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["node", "client", "operator", "home-assistant", "orchestrator"]
"""Lends its device; asks; commands, too; shows the fleet in a home; serves."""
ROLES: tuple[Role, ...] = get_args(Role)


def with_article(role: Role) -> str:
    """As it stands in a sentence."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
