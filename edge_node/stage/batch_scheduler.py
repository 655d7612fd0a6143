"""Whose turn it is on a stage: decode steps in batches, prompt chunks one at a time, neither starving the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edge_node.stage_spec import StageSpec


class BatchScheduler:
    """The queues of requests with something to compute, in the order they asked.

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
        """Does any request wait?"""
        return bool(self._steps or self._chunks)

    def add(self, request: int, *, is_chunk: bool) -> None:
        """Queue a request with a chunk of several positions, or with one position."""
        (self._chunks if is_chunk else self._steps).append(request)

    def take(self, groups: Mapping[int, int]) -> list[int]:
        """The requests of the next run: one with a chunk, or those with one position each of the first one's group.

        Args:
            groups: the group of each open request; those that ended meanwhile are in none.
        """
        if self._chunks and (self._chunk_is_next or not self._steps):
            self._chunk_is_next = False
            return [self._chunks.popleft()]
        self._chunk_is_next = True
        if not self._steps:
            return []
        group = groups.get(self._steps[0])
        taken = [request for request in self._steps if groups.get(request) == group]
        self._steps = deque(request for request in self._steps if groups.get(request) != group)
        return taken


def batches_in_flight(spec: StageSpec, requests: int) -> int:
    """How many batches so many open requests make: what the plan says, or else one for each node of the ring to
    compute."""
    if 0 < requests <= len(spec.batches):
        return spec.batches[requests - 1]
    return len(spec.nodes)


def batches(slots: Mapping[int, int], *, count: int, rows_per_message: int) -> dict[int, int]:
    """The batch of each request; a batch has neighbouring slots, because a run covers all from its first to its last.

    Args:
        slots: of the open requests.
        count: how many batches there are at the most, to be computed on different nodes at the same time.
        rows_per_message: the most requests in a batch, whose results travel together; what makes more batches.
    """
    size = min(-(-len(slots) // count), rows_per_message)
    return {number: index // size for index, number in enumerate(sorted(slots, key=lambda number: slots[number]))}
