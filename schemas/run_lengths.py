"""How many positions a run computes, so that each gets the same bits whatever run it is in (pure).

Kernels treat the last rows and columns of a matrix in other ways than those before, and a single row in a third one. So
behind the positions that are wanted stand dummies: no position looks at later ones, and a dummy's KV row is where the
next position writes its own. How many it takes depends on the processor; which of `CANDIDATES` will do, a node tries.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_LOGITS = 2
"""Fewest rows that the head is computed for: weights have a kernel for a single one."""


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A run computes so many positions at once: a multiple, with at least so many dummies behind the wanted ones."""

    multiple: int = 1
    dummies: int = 0

    def computed(self, count: int) -> int:
        """Positions that are computed where ``count`` are wanted."""
        return -(-(count + self.dummies) // self.multiple) * self.multiple


AS_WANTED = RunLengths()
"""No dummies."""
CANDIDATES = (RunLengths(2, 0), RunLengths(4, 3))
"""The cheapest first. The first will do on x86-64 with AVX2, the second on 64-bit ARM with NEON, where products in
attention take rows and columns in fours."""
SPARE_POSITIONS = max(lengths.computed(1 + extra) - (1 + extra) for lengths in CANDIDATES for extra in range(4))
"""Most dummies behind a run: so many rows KV caches have more than the context, and rotary tables have to have them."""
