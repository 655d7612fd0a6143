"""Which pipelines have something to do: those that an event touched, and those whose time has come (pure)."""

from __future__ import annotations

import math
from collections.abc import Iterable


class DuePipelines:
    """Due dates of pipelines, by name. A pipeline that nothing touched and whose date has not come is left alone."""

    def __init__(self) -> None:
        self._touched: set[str] = set()
        self._due_s: dict[str, float] = {}
        self.next_s = math.inf
        """The earliest date; minus infinity while something is touched."""

    def touch(self, names: Iterable[str]) -> None:
        """Note that something happened to these pipelines."""
        self._touched.update(names)
        if self._touched:
            self.next_s = -math.inf

    def take(self, now_s: float) -> set[str]:
        """Take the pipelines with something to do now; they count as seen to."""
        taken = self._touched | {name for name, due_s in self._due_s.items() if due_s <= now_s}
        self._touched = set()
        self._reckon()
        return taken

    def put_off(self, name: str, due_s: float) -> None:
        """Note that a pipeline has nothing to do before ``due_s``, unless something happens to it."""
        self._due_s[name] = due_s
        self._reckon()

    def _reckon(self) -> None:
        self.next_s = -math.inf if self._touched else min(self._due_s.values(), default=math.inf)
