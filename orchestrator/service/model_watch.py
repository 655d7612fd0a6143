"""Looks out for the first model of a machine, where a service has begun without one."""

from __future__ import annotations

import math

from orchestrator.model.store import ModelStore

LOOK_S = 1.0


class ModelWatch:
    """Owned by the service's thread."""

    def __init__(self, store: ModelStore, model: str | None) -> None:
        """``model``: what the service has begun with; with one, nothing is looked for."""
        self._store = store
        self._due_s = math.inf if model else -math.inf

    def look(self, now_s: float) -> str | None:
        """The model that has become the active one; told once."""
        if now_s < self._due_s:
            return None
        found = self._store.active
        self._due_s = math.inf if found else now_s + LOOK_S
        return found
