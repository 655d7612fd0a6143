"""How long a node may be silent until it counts as lost (pure)."""

from __future__ import annotations

from dataclasses import dataclass

GAPS = 1.5
"""Silence of so many times the longest time between two of its heartbeats is none to worry about."""
MISSED = 2.5
"""Silence of so many times what a quiet node has said lies between its heartbeats is that of one that is gone."""
_QUICK_S = 1.0
"""A node that says how it is less often is quiet: nothing happens there."""
_GAP_DECAY = 0.9
"""What the longest time counts, one heartbeat later."""
_MOST_GAP_S = 3.0
RECHECK_S = 0.25
"""After which it is looked again whether others are heard."""


@dataclass(frozen=True)
class SilenceLimits:
    """How long a node may be silent, in seconds."""

    usual_s: float = 10.0
    quick_s: float = 1.5
    """While it is needed, and others are heard."""


@dataclass
class LifeSigns:
    """What was last heard of a node, and how often it is heard."""

    heard_s: float
    busy_s: float = 0.0
    """It said that it might be silent for so long."""
    next_s: float = _QUICK_S
    """It said that its next heartbeat would come after so long, if nothing happened before."""
    gap_s: float = 0.0
    """Longest time between two of its heartbeats lately, in which it said that it was neither busy nor quiet."""
    worked_s: float = 0.0
    """When something last came that it had a part in."""
    needed_since_s: float | None = None
    """Since when open requests need it; None while none does."""
    recheck_s: float = 0.0

    @property
    def is_quiet(self) -> bool:
        """Did it say that it would be heard seldom?"""
        return self.next_s > _QUICK_S

    def heartbeat(self, busy_s: float, next_s: float, now_s: float, *, was_here: bool) -> None:
        """Note a heartbeat. ``busy_s``: the next one may come so late; ``next_s``: it will if nothing happens."""
        if was_here and not self.busy_s and not self.is_quiet:
            self.gap_s = max(min(now_s - self.heard_s, _MOST_GAP_S), _GAP_DECAY * self.gap_s)
        self.heard_s, self.busy_s, self.next_s = now_s, busy_s, next_s

    def lost_s(self, limits: SilenceLimits) -> float:
        """When the node counts as lost, whoever else is heard."""
        return max(self.heard_s, self.worked_s) + max(limits.usual_s, self.busy_s, MISSED * self.next_s)

    def suspect_s(self, limits: SilenceLimits) -> float:
        """When the node counts as lost if others are heard."""
        if self.needed_since_s is None:
            return self.lost_s(limits)
        patience_s = max(limits.quick_s, GAPS * self.gap_s, self.busy_s)
        if self.heard_s > self.needed_since_s:  # else what it is needed for has it speak up at once
            patience_s = max(patience_s, GAPS * self.next_s)
        quick_s = max(self.heard_s, self.worked_s, self.needed_since_s) + patience_s
        return min(max(quick_s, self.recheck_s), self.lost_s(limits))

    def is_heard_after(self, other: LifeSigns, limits: SilenceLimits) -> bool:
        """Was this node heard when the other one should have been, so that it is not our own link that is silent?"""
        return self.heard_s >= other.heard_s + limits.quick_s / 2
