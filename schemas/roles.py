"""What a member of a fleet can be."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["node", "client", "operator", "orchestrator"]
"""Lends its device; asks; commands, too; serves."""
ROLES: tuple[Role, ...] = get_args(Role)
