"""Requests that ended lately, and what their readers were told (pure)."""

from __future__ import annotations

from collections.abc import Sequence

_MOST = 1000
_MOST_MESSAGES = 20_000
"""All together; those of the oldest are dropped first."""


class EndedRequests:
    """Requests that ended lately: a QoS 1 submission may arrive twice, and a reader may have been away at the end."""

    def __init__(self) -> None:
        self._clients: dict[str, str] = {}
        self._sent: dict[str, Sequence[object]] = {}
        self._messages = 0

    def __contains__(self, request: str) -> bool:
        return request in self._clients

    def add(self, request: str, client: str, sent: Sequence[object]) -> None:
        """Remember a request that has ended; ``sent`` is all that the client was told."""
        self._clients[request] = client
        self._sent[request] = sent
        self._messages += len(sent)
        while self._messages > _MOST_MESSAGES and len(self._sent) > 1:
            self._messages -= len(self._sent.pop(next(iter(self._sent))))
        if len(self._clients) > _MOST:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            self._messages -= len(self._sent.pop(oldest, ()))

    def sent_to(self, client: str, request: str) -> Sequence[object]:
        """All that this client was told of a request, the end last; nothing where that is not known any more."""
        return self._sent.get(request, ()) if self._clients.get(request) == client else ()
