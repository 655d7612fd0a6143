"""What operators are answered, for who asks by HTTP."""

from __future__ import annotations

from typing import Any

from orchestrator.client.async_client import AsyncClient
from orchestrator.client.errors import NoOrchestrator
from schemas.contract import dump
from schemas.messages import EventsReply, FleetEvent, ShowEvents

MOST_PAST_EVENTS = 100


def as_json(reply: object) -> dict[str, Any]:
    """The members of a message."""
    shown: dict[str, Any] = dump(reply)
    return shown


async def past_events(client: AsyncClient) -> tuple[FleetEvent, ...]:
    """The newest events; none where nobody is there who knows them.

    Raises:
        ControlRefused, AnswerIncomplete, BusError: see `AsyncClient.command`.
    """
    try:
        known = await client.command(ShowEvents(limit=MOST_PAST_EVENTS), EventsReply)
    except NoOrchestrator:
        return ()
    return known.events
