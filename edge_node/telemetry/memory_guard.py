"""The guard of a node's memory: reads what is left, lets go of what can be had again, gives layers up in time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from broker import heap
from edge_node.core import NodeCore
from edge_node.effects import Effect, Register, SendHeartbeat
from edge_node.runtime import process_heap
from edge_node.runtime.segment_runner import SegmentRunner
from edge_node.runtime.table_pages import TablePages
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import control_group, device
from edge_node.telemetry.memory_rule import MemoryReading, MemoryRule
from edge_node.telemetry.reading import Reading
from schemas.limits import MB

_log = logging.getLogger(__name__)
_INTERVAL_S = 0.5
_PATIENCE_S = 2.0
"""For the first reading. A device that does not tell what it has is taken to have half of its memory left."""


class MemoryGuard:
    """Watches the memory that there is for the node. All methods are for the thread that runs segments."""

    def __init__(self, limit_bytes: int | None, store: BlobStore, wake: Callable[[], None]) -> None:
        """``wake`` is called by another thread once there is something to look at."""
        self._store = store
        self._limit_bytes = limit_bytes
        self._wake = wake
        self._level = 0
        self._calls = False
        self.has_news = False
        """Is there something for ``check`` to look at?"""
        self._reading = Reading(
            lambda: MemoryReading(device.available_bytes(), control_group.stalled_percent()),
            MemoryReading(device.available_of_unknown_bytes()),
            name="memory", every_s=_INTERVAL_S, heard=self._heard,
        )  # fmt: skip
        first = self._reading.await_first(_PATIENCE_S)
        budget = functools.partial(device.memory_budget_bytes, limit_bytes)
        self.memory_bytes = budget(device.resident_bytes(), first.available_bytes)
        """What the node may use in all by now."""
        self._rule = MemoryRule(budget, self.memory_bytes)
        self._table_pages = TablePages(store.directory, device.resident_bytes)

    @property
    def is_limited(self) -> bool:
        """Is it the node's owner who set the memory it may use?"""
        return self.memory_bytes == self._limit_bytes

    @property
    def reading(self) -> MemoryReading:
        """What was read last."""
        return self._reading.value

    def close(self) -> None:
        """Read no more."""
        self._reading.close()

    def _heard(self, reading: MemoryReading) -> None:
        if reading.level != self._level or self._calls:
            self._level, self.has_news = reading.level, True
            self._wake()

    def ran(self, core: NodeCore) -> None:
        """Let go of table pages after a run, if it is time."""
        self._table_pages.check(core.planned_bytes)

    def check(self, core: NodeCore, runner: SegmentRunner, now_s: float) -> list[Effect]:
        """Look at what was read, let go of what can be had again, and say what else there is to do."""
        self.has_news = False
        resident_bytes = device.resident_bytes()
        verdict = self._rule.judge(self.reading, resident_bytes, now_s, has_stages=core.has_stages)
        if verdict.relieve:
            self._relieve(core, runner, resident_bytes)
        self._calls = self._rule.awaits_reading
        if self._calls:
            self._reading.hurry()
        if verdict.memory_bytes is not None:
            _log.warning("it may use %d MB in all now, not %d", verdict.memory_bytes // MB, self.memory_bytes // MB)
            self.memory_bytes = verdict.memory_bytes
        if verdict.give_up:
            _log.warning("layers are given up: %s", verdict.give_up)
        effects = core.give_up(verdict.give_up, "no_room") if verdict.give_up else []
        effects += [Register()] if verdict.memory_bytes is not None else []
        return [*effects, SendHeartbeat()] if verdict.tell else effects

    def _relieve(self, core: NodeCore, runner: SegmentRunner, resident_bytes: int) -> None:
        """Let go of what can be had again, or is used no more: segments, rows of answers that ended, pages of files."""
        runner.unloaded.free()
        runner.forget_rows(core.forget_parked())
        process_heap.let_go_of_file_pages(self._store.directory)
        heap.trim()
        left, freed = self.reading.available_bytes // MB, (resident_bytes - device.resident_bytes()) // MB
        _log.warning("memory is short (%d MB left, %d MB in use): let go of %d MB", left, resident_bytes // MB, freed)
