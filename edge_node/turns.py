"""Whose turn it is on a stage: decode steps in batches, prompt chunks one at a time, neither starving the other."""

from __future__ import annotations

from collections import deque


class Turns:
    """Requests with something to compute, in the order they asked.

    After a prompt chunk the waiting decode steps come first, and after a batch of decode steps the next chunk: a long
    prompt delays other answers by one chunk per token, and is itself never put off for longer than one batch.
    """

    def __init__(self) -> None:
        self._steps: deque[int] = deque()
        self._chunks: deque[int] = deque()
        self._chunk_is_next = False

    def __len__(self) -> int:
        return len(self._steps) + len(self._chunks)

    @property
    def waiting(self) -> bool:
        """Does anyone wait?"""
        return bool(self._steps or self._chunks)

    def add(self, request: int, *, is_chunk: bool) -> None:
        """A request waits with a chunk of several positions, or with one position."""
        (self._chunks if is_chunk else self._steps).append(request)

    def take(self, limit: int) -> list[int]:
        """The requests of the next run: one with a chunk, or up to ``limit`` with one position each."""
        if self._chunks and (self._chunk_is_next or not self._steps):
            self._chunk_is_next = False
            return [self._chunks.popleft()]
        self._chunk_is_next = True
        return [self._steps.popleft() for _ in range(min(max(limit, 1), len(self._steps)))]
