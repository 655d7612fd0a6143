"""The journal of open requests: what the next start of the orchestrator needs to go on with them."""

from __future__ import annotations

import math

from orchestrator.effects import Effect, ForgetRequest, SaveOpened, SaveRequest, SaveTokens
from orchestrator.service.database import Database

_WRITE_S = 0.25
"""Tokens are written together, once in so long: a write costs an SD card a page. What is lost with a kill is made once
more, or the reader has it."""


class RequestJournal:
    """Writes the requests of a pipeline to the database."""

    def __init__(self, state: Database, pipeline: str) -> None:
        self._state = state
        self._pipeline = pipeline
        self._tokens: dict[tuple[str, int], SaveTokens] = {}
        """By request and number of the first, not written yet."""
        self.due_s = math.inf
        """When ``write`` is to be called."""

    def save(self, effect: Effect, now_s: float) -> None:
        """Remember what an effect says; tokens with the next ``write``."""
        match effect:
            case SaveRequest(submit):
                self._state.begin_request(self._pipeline, submit)
            case SaveOpened(request, model, prompt_ids, epoch):
                self._state.open_request(request, model=model, prompt_ids=prompt_ids, epoch=epoch)
            case SaveTokens(request, first):
                self._tokens[request, first] = effect
                self.due_s = min(self.due_s, now_s + _WRITE_S)
            case ForgetRequest(request):
                self._tokens = {key: kept for key, kept in self._tokens.items() if key[0] != request}
                self._state.end_request(request)

    def write(self) -> None:
        """Write the tokens that have come."""
        self._state.add_tokens(self._tokens.values())
        self._tokens.clear()
        self.due_s = math.inf
