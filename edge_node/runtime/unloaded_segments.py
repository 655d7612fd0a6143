"""Segments that are used no more, and still in memory for a moment.

To free one takes tens of milliseconds, in which the process computes nothing. When a segment is used no more, a move
has just ended mostly: readers have waited for its last rows already, and the new ring is about to begin.
"""

from __future__ import annotations

import threading

from broker import heap
from edge_node.runtime import process_heap
from edge_node.runtime.segment import Segment

KEPT_S = 1.0
"""So long: the new ring has given its first tokens by then."""


class UnloadedSegments:
    """Frees segments after a while, in a thread of its own, or at once when the memory is needed. For any thread."""

    def __init__(self) -> None:
        self._freeing = threading.Lock()
        self._segments: list[Segment] = []

    def add(self, segment: Segment) -> None:
        """Free a segment in a while; nobody else may have it."""
        self._segments.append(segment)
        timer = threading.Timer(KEPT_S, self.free)
        timer.daemon = True
        timer.start()

    def free(self) -> None:
        """Give the memory of all that were added back to the system."""
        with self._freeing:
            if self._segments:
                self._segments.clear()
                heap.give_back()
                process_heap.forget_peak()  # of plans that are gone
