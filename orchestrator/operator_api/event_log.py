"""The log of events: what happened lately, for operators (pure)."""

from __future__ import annotations

from collections import deque

from orchestrator.effects import Note
from schemas.limits import MAX_LINE
from schemas.messages import MOST_EVENTS, FleetEvent

KEPT = MOST_EVENTS


class EventLog:
    """The newest events, oldest first. Notes become events when they have a kind."""

    def __init__(self, pipeline: str) -> None:
        """Begin an empty log. ``pipeline`` is named in events that concern none or all."""
        self._pipeline = pipeline
        self._events: deque[FleetEvent] = deque(maxlen=KEPT)
        self._number = 0

    def add(self, note: Note, at_s: float) -> FleetEvent | None:
        """Keep a note that operators care about; ``at_s`` is in seconds since 1970."""
        if not note.kind:
            return None
        self._number += 1
        event = FleetEvent(
            pipeline=note.pipeline or self._pipeline,
            number=self._number,
            at_s=at_s,
            kind=note.kind,
            node=note.node,
            text=note.text[:MAX_LINE],
            warning=note.warning,
        )
        self._events.append(event)
        return event

    def view(self, limit: int = KEPT) -> tuple[FleetEvent, ...]:
        """The newest events, ``limit`` at the most."""
        return tuple(self._events)[-limit:]
