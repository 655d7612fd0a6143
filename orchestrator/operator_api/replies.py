"""How commands are answered (pure)."""

from __future__ import annotations

from typing import Any

from orchestrator.effects import Publish
from schemas.limits import MAX_LINE
from schemas.messages import ControlReply, ControlRequest
from schemas.topics import CONTROL_REPLY


def reply(command: ControlRequest, result: dict[str, Any]) -> Publish:
    """It is done; here is what was asked for."""
    return _publish(command, ControlReply(request=command.request, ok=True, result=result))


def refuse(command: ControlRequest, reason: str) -> Publish:
    """It can't be done; one line that says why."""
    return _publish(command, ControlReply(request=command.request, ok=False, reason=reason[:MAX_LINE]))


def _publish(command: ControlRequest, answer: ControlReply) -> Publish:
    return Publish(CONTROL_REPLY.format(client=command.client, request=command.request), answer)
