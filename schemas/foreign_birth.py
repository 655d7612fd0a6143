"""The birth of a node that speaks another protocol: what every version says, so that people hear what to update."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from schemas import PROTOCOL_VERSION, contract, json_text
from schemas.errors import ContractError
from schemas.node_messages import NodeBirth
from schemas.registry import MAX_MESSAGE_BYTES

_KEPT = ("node", "incarnation", "protocol", "package_version")
"""No version may say these in another way."""


def foreign_birth(payload: bytes) -> NodeBirth | None:
    """A birth with those members alone, all others as small as can be; None: it is none, or of this protocol."""
    if len(payload) > MAX_MESSAGE_BYTES:
        return None
    try:
        said = json_text.read(str(payload, "utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("type") != "node.birth" or said.get("protocol") == PROTOCOL_VERSION:
        return None
    members: dict[str, Any] = {one.name: 0 for one in fields(NodeBirth) if one.default is MISSING}
    try:
        birth: NodeBirth = contract.load(NodeBirth, members | {name: said.get(name) for name in _KEPT})
    except ContractError:
        return None
    return birth
