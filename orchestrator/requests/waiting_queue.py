"""The queue of requests that wait for their turn, the next one first (pure)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator

from orchestrator.requests.session import Session
from schemas.messages import SubmitRequest

MOST_WAITING_BYTES = 32 << 20
"""Of all questions that wait in a queue."""
_TOKEN_BYTES = 40
"""A number and the reference to it."""


class WaitingQueue:
    """Sessions that wait, in order; one whose answer has begun goes before those that have not."""

    def __init__(self, most: int) -> None:
        """``most``: how many may wait, those aside that had begun."""
        self._most = most
        self._sessions: deque[Session] = deque()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over the sessions that wait now, whatever becomes of them meanwhile."""
        return iter(tuple(self._sessions))

    def refusal(self, submit: SubmitRequest, free_slots: int) -> str:
        """Why a question can't wait here; empty when it can. As many as there are free slots will not wait for long.

        A client may have as much waiting as is left free for others: half of the queue, the next one like it half of
        the rest. So who asks much never fills it, and there is room for a client that has nothing there.
        """
        mine = [waiting for waiting in self._sessions if waiting.client == submit.client]
        waiting = max(0, len(self) - free_slots)
        if waiting >= self._most:
            return f"{len(self)} requests wait already"
        if len(mine) - free_slots >= self._most - waiting:
            return f"{len(mine)} requests of {submit.client} wait already, and what is left is for others"
        held = sum(_size_bytes(waiting.submit) for waiting in self._sessions)
        own = sum(_size_bytes(waiting.submit) for waiting in mine) + _size_bytes(submit)
        if own > MOST_WAITING_BYTES - held:
            return f"{held / 1e6:.0f} MB of questions wait already"
        return ""

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


def _size_bytes(submit: SubmitRequest) -> int:
    """Memory that a question takes, about."""
    calls = (call.arguments for turn in submit.messages for call in turn.tool_calls)
    tools = (text for tool in submit.tools for text in (tool.description, tool.parameters))
    texts = (*(turn.content for turn in submit.messages), *calls, *tools, submit.prompt or "", *submit.stop)
    grammar = len(submit.grammar.text) if submit.grammar else 0
    return sum(map(sys.getsizeof, texts)) + grammar + _TOKEN_BYTES * len(submit.answer_ids)
