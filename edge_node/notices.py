"""What whoever started a node is told while it runs: a line when something has changed for them."""

from __future__ import annotations

from collections.abc import Callable

from schemas.messages import Plan
from schemas.units_text import describe_units


class Notices:
    """Tells of a node's place in the fleet; no line twice in a row."""

    def __init__(self, node: str, tell: Callable[[str], None]) -> None:
        self._node = node
        self._tell = tell
        self._last = ""
        self._held: dict[str, str] = {}
        """What the node runs, by pipeline."""

    @property
    def runs(self) -> str:
        """What the node runs, in a line; empty without layers."""
        return "; ".join(self._held.values())

    def say(self, line: str) -> None:
        """Tell a line, unless it was the last one."""
        if line != self._last:
            self._last = line
            self._tell(line)

    def registered(self) -> None:
        """The fleet was told that the node is here."""
        if not self._held:
            self.say("registered: it waits for layers")

    def plan(self, plan: Plan) -> None:
        """A plan came into force."""
        mine = [
            describe_units(stage.start, stage.stop, plan.ring[-1].stop)
            for stage in plan.ring
            if stage.node == self._node
        ]
        if mine:
            self._held[plan.pipeline] = f"{' and '.join(mine)} of {plan.model}"
        elif self._held.pop(plan.pipeline, None) is None:
            return
        self.say(f"runs {self.runs}" if self._held else "it has no layers now")
