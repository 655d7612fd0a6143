"""Which stage of which ring a node has, as its prepare command says."""

from __future__ import annotations

from schemas.messages import Epoch

StageKey = tuple[str, Epoch, int]
"""(pipeline, epoch, stage): a node may have several stages of a ring, the first and the last above all."""
