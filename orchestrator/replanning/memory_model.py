"""How much memory a loaded segment takes at its peak (pure).

Measured with SmolLM2-135M on Linux, x86-64, ONNX Runtime 1.32, as the difference of resident memory before opening a
segment and the largest value until its KV cache was full, for ranges of 1, 3, 10, 12 and all units. What a session
takes is the sum of

* a fixed part: the pages of ONNX Runtime's own code that the first session touches, and what allocators keep, which is
  more where a node has two sessions, for both ends of a ring;
* activations of the longest prefill chunk;
* weights, by kind of unit: int4 and int8 kernels keep a pre-packed copy beside (or instead of) the mapped file, and
  `accuracy_level=4` (profiles "fast" and "steady", whose graphs are the same) packs larger; the head's matrix is by
  far the largest of the model, and while it is packed the original is still there. The file of an embedding is mapped,
  and only pages with rows of tokens that occur are ever read: of quantised ones, a dozen rows a page, half is counted;
* tables of positions that it computes, for as many as are served;
* the KV cache, counted as full.

Sharing of tied weights saves disk only: each of two sessions keeps its own copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.model.manifest import Manifest
from schemas.messages import UnitKind
from schemas.units import BLOCK, EMBED, HEAD

SESSION_BYTES = 21 << 20
"""11 MiB of code, and what allocators keep of transfers and loading."""
SECOND_SESSION_BYTES = 12 << 20
"""Of a node with two stages: what allocators keep once more. The code is there, and only one of them runs at a time."""
ACTIVATION_COPIES = 1.25
"""ONNX Runtime's arena rounds up what a run needs."""


@dataclass(frozen=True)
class ResidentFactors:
    """Bytes at the peak per byte of weights on disk, by kind of unit."""

    embed: float
    block: float
    head: float

    def of(self, kind: UnitKind) -> float:
        return {EMBED: self.embed, BLOCK: self.block, HEAD: self.head}[kind]


FACTORS = {
    ("int4", "fast"): ResidentFactors(embed=0.5, block=1.62, head=1.65),
    ("mixed", "fast"): ResidentFactors(embed=0.5, block=1.62, head=1.85),
    ("int4", "exact"): ResidentFactors(embed=0.5, block=1.2, head=1.6),
    ("int8", "fast"): ResidentFactors(embed=0.5, block=1.4, head=1.85),
    ("fp16", "fast"): ResidentFactors(embed=1.05, block=2.55, head=4.1),
    ("fp32", "fast"): ResidentFactors(embed=1.05, block=1.05, head=2.0),
}
"""By the manifest's precision and profile. On a CPU fp16 weights are widened to fp32: `benchmarks/memory.py` found 2.5
times their file for SmolLM2's blocks and 2.1 for Gemma 3's, beside what a session takes, and up to 3.9 times for
a head (Gemma 3's)."""
CAUTIOUS = ResidentFactors(embed=1.05, block=2.1, head=2.1)
"""For what was not measured."""


def resident_factors(manifest: Manifest) -> ResidentFactors:
    """The factors of a model."""
    known = FACTORS.get((manifest.precision, manifest.profile))
    return known or FACTORS.get((manifest.precision, "fast"), CAUTIOUS)


def workspace_bytes(manifest: Manifest, *, chunk_tokens: int, context_tokens: int, slots: int) -> int:
    """What a session takes beside weights and KV cache: code, activations of a chunk, attention scores, logits.

    The outputs of all matrices of a block have together (FLOPs per token / 2) / width values per position.
    """
    spare = manifest.numerics.spare_positions
    chunk = min(chunk_tokens, context_tokens) + spare
    width = manifest.width
    block = max(manifest.units[1:-1], key=lambda unit: unit.flops_per_token)
    projected = block.flops_per_token / 2 / width
    heads = max((width / cache.key_dim for cache in manifest.layers if cache.key_dim), default=1.0)
    activations = 4 * chunk * (projected + heads * context_tokens)
    logits = 4 * manifest.vocab_size * (slots + 1)
    spare_kv = slots * spare * manifest.kv_bytes_per_token  # of all layers: a node has some
    tables = manifest.position_bytes * (context_tokens + spare)
    return SESSION_BYTES + math.ceil(ACTIVATION_COPIES * activations) + logits + spare_kv + tables
