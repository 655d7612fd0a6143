"""How commands are answered (pure)."""

from __future__ import annotations

from orchestrator.effects import Asker, Publish
from schemas.limits import MAX_LINE
from schemas.messages import OperatorRefusal, OperatorReply
from schemas.topics import CONTROL_REPLY


def reply(asker: Asker, answer: OperatorReply) -> Publish:
    """It is done, or here is what was asked for."""
    return Publish(CONTROL_REPLY.format(client=asker.client, request=asker.request), answer)


def refuse(asker: Asker, reason: str) -> Publish:
    """It can't be done; one line that says why."""
    return reply(asker, OperatorRefusal(reason=reason[:MAX_LINE]))
