"""Profiles, what nodes measured of themselves with a model: seconds for each kind of unit, for plans (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.planning.stage_cost import batched_run_s
from schemas.messages import PROBE_BATCH, NodeBirth, NodeProfile, UnitProfile
from schemas.units import BLOCK, EMBED, HEAD

LEAST_SLOPE = 0.75
"""Share of a run of the larger part that its blocks take at least."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One node's figures for one model. ``drift`` is observed over measured time, as `speed_estimate` believes it."""

    node: str
    fingerprint: str
    threads: int
    emulated_speed: float
    measured: NodeProfile
    measured_s: float
    """On the core's clock; in the past, for what was loaded at the start."""
    drift: float = 1.0

    def fits(self, birth: NodeBirth) -> bool:
        """Was the profile measured with the node as it is now?"""
        return (self.threads, self.emulated_speed) == (birth.threads, birth.emulated_speed)

    def parts(self, kind: str) -> list[UnitProfile]:
        """The measured parts of one kind of units, the smallest first."""
        return sorted((unit for unit in self.measured.units if unit.kind == kind), key=lambda unit: unit.units)

    def _per_unit(self, member: str) -> tuple[float, float, float, float]:
        """(embedding, block, head, fixed): seconds per unit, and what a run costs whatever the units."""
        (embed,), (head,), blocks = self.parts(EMBED), self.parts(HEAD), self.parts(BLOCK)
        one, more = blocks[0], blocks[-1]
        few_s, many_s = getattr(one, member), getattr(more, member)
        # The difference of two medians is noisy: the larger part bounds it from both sides.
        even_s = many_s / more.units
        block_s = min(max((many_s - few_s) / (more.units - one.units), LEAST_SLOPE * even_s), even_s)
        fixed_s = many_s - more.units * block_s
        ends = (max(0.0, getattr(end, member) - fixed_s) for end in (embed, head))
        embed_s, head_s = ends
        return embed_s, block_s, head_s, fixed_s

    @property
    def decode_s(self) -> tuple[float, float, float]:
        """Seconds per token of an embedding, a block, a head, as observed since."""
        return self._observed("decode_s")

    @property
    def decode_batched_s(self) -> tuple[float, float, float] | None:
        """Seconds per token and unit of one of four requests in a batch, by kind; None where a part can't batch."""
        if any(unit.decode_batched_s is None for unit in self.measured.units):
            return None
        return self._observed("decode_batched_s")

    @property
    def prefill_s(self) -> tuple[float, float, float]:
        """Seconds per prompt token of an embedding, a block, a head, as observed since."""
        return self._observed("prefill_s")

    def _observed(self, member: str) -> tuple[float, float, float]:
        embed_s, block_s, head_s, _ = self._per_unit(member)
        return self.drift * embed_s, self.drift * block_s, self.drift * head_s

    @property
    def fixed_s(self) -> float:
        """What a run of a stage costs whatever its units, as observed since."""
        return self.drift * self._per_unit("decode_s")[3]

    def stage_s(self, counts: Sequence[int], rows: float = 1.0) -> float:
        """Measured seconds of a decode run of a stage with so many embeddings, blocks, heads, nothing observed."""
        one_s = self._stage_s(counts, "decode_s")
        if rows == 1 or self.decode_batched_s is None:
            return one_s * rows
        return batched_run_s(one_s, PROBE_BATCH * self._stage_s(counts, "decode_batched_s"), rows)

    def _stage_s(self, counts: Sequence[int], member: str) -> float:
        embed_s, block_s, head_s, fixed_s = self._per_unit(member)
        return fixed_s + counts[0] * embed_s + counts[1] * block_s + counts[2] * head_s
