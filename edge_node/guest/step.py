"""What a node has to do next about its owner's wishes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """Print a line, say on the bus what the node wants now, let go of its layers, end."""

    line: str = ""
    announces: bool = False
    lets_go: bool = False
    ends: bool = False
