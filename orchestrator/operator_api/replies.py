"""Replies to operators (pure)."""

from __future__ import annotations

from orchestrator.effects import Asker, Publish
from schemas.limits import MAX_LINE
from schemas.messages import OperatorRefusal, OperatorReply, ResponseTo
from schemas.topics import CONTROL_REPLY


def reply(asker: Asker, answer: OperatorReply) -> Publish:
    """Reply to a command that has been done, or with what was asked for."""
    wanted = asker.response or ResponseTo(topic=CONTROL_REPLY.format(client=asker.client, request=asker.request))
    return Publish(wanted.topic, answer, correlation=wanted.correlation)


def refuse(asker: Asker, reason: str) -> Publish:
    """Refuse a command; ``reason`` is one line that says why."""
    return reply(asker, OperatorRefusal(reason=reason[:MAX_LINE]))
