"""The queue of requests that wait for their turn, the next one first (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from orchestrator.requests.session import Session


class WaitingQueue:
    """Sessions that wait, in order; one whose answer has begun goes before those that have not."""

    def __init__(self) -> None:
        self._sessions: deque[Session] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions that wait now, whatever becomes of them meanwhile."""
        return iter(tuple(self._sessions))

    def add(self, session: Session) -> None:
        """A request that came in, here or in another pipeline."""
        begun = sum(1 for waiting in self._sessions if waiting.interrupted_s is not None)
        self._sessions.insert(len(self) if session.interrupted_s is None else begun, session)

    def put_first(self, session: Session) -> None:
        """A request that was open a moment ago."""
        self._sessions.appendleft(session)

    def leave(self, session: Session) -> None:
        """Take a session out of the queue, if it is there."""
        self._sessions = deque(waiting for waiting in self._sessions if waiting is not session)
