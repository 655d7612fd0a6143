"""What a segment may take while it is opened and tried: memory far beyond its plan, or minutes for a run, end the load.

Nothing of this is there once a segment serves. Its graph has no loops, so each run ends, and what it does with the
plan's shapes has been seen by then; a clock to be set and stopped would cost a decode step more than it is worth.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from edge_node.errors import MemoryExceeded, SegmentUnusable
from schemas.limits import MB

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

LOAD_LIMIT_S = 900.0
"""For all runs of a load: a slow phone takes two minutes for its longest chunk, and a known answer is a few chunks."""
_PLANS = 3
"""While it is opened, weights are there as a file, packed, and on the way from one to the other."""
_SPARE_BYTES = 512 * MB
"""For what has not to do with weights: stacks of threads, 8 MB each, and what the heap asks for and leaves empty."""
_NO_ROOM = re.compile(r"alloc|out of memory", re.IGNORECASE)


class Stoppable(Protocol):
    """Something that can be told to end what it computes."""

    def stop(self) -> None: ...


@contextlib.contextmanager
def time_limit(segment: Stoppable, limit_s: float = LOAD_LIMIT_S) -> Iterator[None]:
    """Stop what a segment computes meanwhile once the time is up.

    A kernel is not interrupted: it ends before the next node of the graph.

    Raises:
        SegmentUnusable: the time was up.
    """
    over = threading.Event()

    def end() -> None:
        over.set()
        segment.stop()

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except SegmentUnusable as error:
        if over.is_set():
            raise _took_too_long(limit_s) from error
        raise
    finally:
        timer.cancel()
    if over.is_set():
        raise _took_too_long(limit_s)


def _took_too_long(limit_s: float) -> SegmentUnusable:
    return SegmentUnusable(f"its first runs were stopped: they took more than {limit_s:g} s")


class MemoryFence:
    """A limit on what this process asks the system for, where Linux or Android sets it; loads may overlap."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._loads = 0
        self._before = 0

    @contextlib.contextmanager
    def around(self, planned_bytes: int | None, file_bytes: int) -> Iterator[None]:
        """Allow no more meanwhile than a load can take that was planned; no limit where nothing was (0 or None).

        Args:
            planned_bytes: of the node in all.
            file_bytes: of what the segment has on disk, all of which may be mapped.

        Raises:
            MemoryExceeded: it asked for more.
        """
        allowed_bytes = _PLANS * (planned_bytes or 0) + file_bytes + _SPARE_BYTES
        if not planned_bytes or not self._enter(allowed_bytes):
            yield
            return
        try:
            yield
        except (MemoryError, SegmentUnusable) as error:
            if isinstance(error, MemoryError) or _NO_ROOM.search(str(error)):
                raise MemoryExceeded(
                    f"it takes far more memory than planned: {planned_bytes // MB} MB were, and it asks for more than"
                    f" {allowed_bytes // MB} MB while it is loaded"
                ) from error
            raise
        finally:
            self._leave()

    def _enter(self, allowed_bytes: int) -> bool:
        """Set the limit; false where there can be none."""
        with self._changing:
            asked_bytes = _asked_bytes()
            if resource is None or asked_bytes is None:
                return False
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            if not self._loads:
                self._before = soft
            limits = [(soft if self._loads else asked_bytes) + allowed_bytes]
            limits += [limit for limit in (self._before, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
            self._loads += 1
            return True

    def _leave(self) -> None:
        with self._changing:
            self._loads -= 1
            if not self._loads:
                hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
                resource.setrlimit(resource.RLIMIT_DATA, (self._before, hard))


def _asked_bytes() -> int | None:
    """What counts towards the limit: all memory of this process that it may write to, touched or not."""
    try:
        status = Path("/proc/self/status").read_text("utf-8", "replace")
    except OSError:
        return None
    found = re.search(r"^VmData:\s+([0-9]+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


memory_fence = MemoryFence()
"""The one of this process."""
