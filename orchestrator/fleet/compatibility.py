"""Which nodes an orchestrator can work with, by what they say of themselves (pure)."""

from __future__ import annotations

from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import NodeBirth

_LEAST_MESSAGE_BYTES = 1_024
"""A node that can be told less would keep everybody from being told more: messages are as short as all can take."""


def why_apart(birth: NodeBirth) -> str:
    """Why this node can't take part, with the line that helps; empty when it can."""
    if birth.max_message_bytes < _LEAST_MESSAGE_BYTES:
        said = f"{birth.node} says that the broker passes on {birth.max_message_bytes} bytes at most"
        return f"{said}, which is too little for any request: raise the broker's limit of a message"
    if birth.protocol == PROTOCOL_VERSION:  # whose versions of linguabus may differ
        return ""
    where, extra, version = "the node", "edge", PACKAGE_VERSION
    if birth.protocol > PROTOCOL_VERSION:
        where, extra, version = ("the fleet's host", "orchestrator", birth.package_version)
    return (
        f"{birth.node} runs linguabus {birth.package_version} (protocol {birth.protocol}), the orchestrator "
        f"{PACKAGE_VERSION} (protocol {PROTOCOL_VERSION}): on {where} run"
        f" pip install --upgrade 'linguabus[{extra}]=={version}'"
    )
