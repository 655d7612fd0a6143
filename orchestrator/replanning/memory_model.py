"""How much memory a loaded segment takes at its peak (pure).

What a node takes beside what it held when it came is the sum of

* a session: the pages of ONNX Runtime's own code that it touches, and what the heap keeps;
* activations of the longest prefill chunk, logits, and tables of positions, for as many as are served;
* weights, by kind of unit. Of a quantised matrix ONNX Runtime packs a copy, with a scale and a sum in float32 for each
  block of weights, and lets go of the file after that; an fp16 matrix is widened to float32 first. The head's matrix is
  by far the largest: while it is packed, it is there twice;
* rows of mapped tables that were looked up, of the embedding and of the head's second pass: the kernel maps 64 KiB
  around each. A node that comes near what was planned lets go of them (`edge_node.runtime.table_pages`);
* the KV cache, counted as full.

Sharing of tied weights saves disk only: each of two sessions keeps its own copy. Its constants are
for x86-64 and ONNX Runtime 1.32; `benchmarks/memory.py` compares what is planned with what nodes take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from orchestrator.model.manifest import DTYPE_BYTES, Blob, Manifest, Unit
from schemas.limits import MB

SESSION_BYTES = 18 * MB
"""13.5 MB of code, and what the heap keeps of transfers and loading."""
SECOND_SESSION_BYTES = 5 * MB
"""Of a node with two stages: what the heap keeps once more. The code is there."""
ACTIVATION_COPIES = 1.25
"""ONNX Runtime's arena rounds up what a run needs."""
LEAST_HEADS = 4
"""Of attention: as many as hidden states are wide for, but small models have more."""
WINDOW_BYTES = 64 << 10
"""So much of a mapped file becomes resident with one row."""
LOOKED_UP_ROWS = 1024
"""Of a head's second pass, which looks up 64 for each token: of those between two heartbeats."""
LOOKED_UP_SHARE = 0.75
"""Of a head's tables: tokens that are likely at all are neighbours there."""


@dataclass(frozen=True)
class Resident:
    """Resident bytes of weights: so many per byte on disk, and so many per number in their matrices."""

    per_byte: float = 0.0
    per_weight: float = 0.0

    def of(self, disk_bytes: int, weights: int) -> int:
        return math.ceil(self.per_byte * disk_bytes + self.per_weight * weights)


@dataclass(frozen=True)
class WeightRule:
    """How weights become resident: blocks and head, while they are loaded and packed and while they serve.

    ``tables``: what an embedding consists of, in shares of its bytes: each has a part of each row.
    """

    block_loading: Resident
    block_serving: Resident
    head_loading: Resident
    head_serving: Resident
    tables: tuple[float, ...]
    quantised: bool


_QUANTISED = (0.46, 0.48, 0.06)
"""Two halves of each number, and scales."""
_FLOATS = (1.0,)
_TWO_PASSES = Resident(per_weight=1.68), Resident(per_weight=0.93)
"""Of a head in four bits: packed, and scales in float32; while it is loaded the file, and the scales twice."""
_MIXED = WeightRule(Resident(1, 0.54), Resident(1, 0.4), *_TWO_PASSES, tables=_QUANTISED, quantised=True)
"""Blocks of 16 or 32 weights in four or eight bits, scales in fp16 that are widened."""
RULES = {
    # Packed: half a byte a weight and 8 bytes per block of 32; of the file, 4 bytes per block stay mapped at first.
    ("int4", "fast"): WeightRule(Resident(1, 0.32), Resident(1, 0.16), *_TWO_PASSES, tables=_QUANTISED, quantised=True),
    # Packed without sums; scales stay in the mapped file.
    ("int4", "exact"): WeightRule(
        Resident(1),
        Resident(1),
        Resident(per_weight=1.25),
        Resident(per_weight=0.67),
        tables=_QUANTISED,
        quantised=True,
    ),
    ("mixed", "fast"): _MIXED,
    ("int8", "fast"): _MIXED,
    ("fp16", "fast"): WeightRule(
        Resident(2.2), Resident(2.1), Resident(4), Resident(2.02), tables=_FLOATS, quantised=False
    ),
    ("fp32", "fast"): WeightRule(
        Resident(1.04), Resident(1.04), Resident(2.03), Resident(1.01), tables=_FLOATS, quantised=False
    ),
}
"""By the manifest's precision and profile; other profiles as "fast"."""
UNKNOWN = WeightRule(Resident(2.1), Resident(2.1), Resident(4.1), Resident(2.1), tables=_QUANTISED, quantised=False)
"""For what was not measured."""
BLOCK_BYTES = round(0.5 * MB)
"""Of a quantised block: what the heap keeps beside its matrices."""
WIDENED_BLOCKS = 1.1
"""Blocks in fp16 that are there a second time while they are widened."""
TRIED_LOGITS = 200
"""Rows of logits that trying run lengths leaves behind, where all runs have to give the same bits."""


@dataclass(frozen=True)
class PeakBytes:
    """Most resident bytes of a unit's weights while it is loaded, and while it serves."""

    loading: int
    serving: int

    @property
    def most(self) -> int:
        return max(self.loading, self.serving)


def rule_of(manifest: Manifest) -> WeightRule:
    """How the weights of a model become resident."""
    known = RULES.get((manifest.precision, manifest.profile))
    return known or RULES.get((manifest.precision, "fast"), UNKNOWN)


def ties_ends(manifest: Manifest, blob: Blob) -> bool:
    """Do embedding and head share this blob, and nobody else?"""
    return set(blob.units) == {0, manifest.num_units - 1}


def is_common(manifest: Manifest, blob: Blob) -> bool:
    """Is this blob (tables of positions, mostly) wanted by several units, wherever they are?"""
    return len(blob.units) > 1 and not ties_ends(manifest, blob)


def own_disk_bytes(manifest: Manifest, unit: Unit) -> int:
    """Bytes on disk of a unit's blobs, what all nodes have left out."""
    own = [blob for blob in manifest.blobs if unit.index in blob.units and not is_common(manifest, blob)]
    return sum(blob.size_bytes for blob in own)


def block_bytes(manifest: Manifest, unit: Unit, disk_bytes: int) -> PeakBytes:
    """Resident bytes of a block, of so many on disk, without its KV cache."""
    rule, weights = rule_of(manifest), _weights(unit)
    heap = BLOCK_BYTES if rule.quantised else 0
    return PeakBytes(
        heap + rule.block_loading.of(disk_bytes, weights), heap + rule.block_serving.of(disk_bytes, weights)
    )


def head_bytes(manifest: Manifest, disk_bytes: int, *, slots: int) -> PeakBytes:
    """Resident bytes of a head, of so many on disk, and of the logits of so many requests."""
    rule, weights = rule_of(manifest), _weights(manifest.units[-1])
    rows = slots + (TRIED_LOGITS if manifest.numerics.same_bits else 0)
    logits = rows * manifest.vocab_size * DTYPE_BYTES[manifest.logits_dtype]
    looked_up = touched_bytes(round(LOOKED_UP_SHARE * disk_bytes), LOOKED_UP_ROWS, rule.tables) if rule.quantised else 0
    return PeakBytes(
        rule.head_loading.of(disk_bytes, weights) + logits,
        rule.head_serving.of(disk_bytes, weights) + looked_up + logits,
    )


def embedding_bytes(manifest: Manifest, disk_bytes: int, *, tied: bool, positions: int) -> int:
    """Resident bytes of an embedding, of so many on disk, after a text of so many positions.

    A table in floats that is shared with the head is the head's matrix: a token is a column, which is in all rows.
    """
    rule = rule_of(manifest)
    if tied and not rule.quantised:
        return disk_bytes
    return touched_bytes(disk_bytes, positions, rule.tables)


def touched_bytes(disk_bytes: int, rows: int, tables: Sequence[float]) -> int:
    """Bytes of mapped tables that are resident once so many rows were looked up, drawn at random from all of them."""
    sizes = [share * disk_bytes for share in tables if disk_bytes]
    return math.ceil(sum(size * -math.expm1(-rows * WINDOW_BYTES / size) for size in sizes))


def spread_bytes(sizes: Sequence[int]) -> int:
    """How much more than the mean of all any neighbouring ones take together."""
    mean = sum(sizes) / len(sizes)
    sums = list(accumulate((size - mean for size in sizes), initial=0.0))
    lowest = accumulate(sums, min)
    return math.ceil(max(now - low for now, low in zip(sums, lowest, strict=True)))


@dataclass(frozen=True)
class UnitSizes:
    """What each unit of a model takes by itself: its blobs on disk, and the peak of its weights in memory."""

    disk_bytes: tuple[int, ...]
    embedding: PeakBytes
    blocks: tuple[PeakBytes, ...]
    head: PeakBytes

    @classmethod
    def of(cls, manifest: Manifest, *, context_tokens: int, slots: int) -> UnitSizes:
        """Of a model that serves so many texts of so many positions."""
        units = manifest.units
        disk_bytes = tuple(own_disk_bytes(manifest, unit) for unit in units)
        tied = set(units[0].blobs) <= set(units[-1].blobs)
        embedding = embedding_bytes(manifest, disk_bytes[0], tied=tied, positions=context_tokens * slots)
        return cls(
            disk_bytes,
            PeakBytes(0, embedding),
            tuple(block_bytes(manifest, unit, disk_bytes[unit.index]) for unit in units[1:-1]),
            head_bytes(manifest, disk_bytes[-1], slots=slots),
        )

    @property
    def all(self) -> tuple[PeakBytes, ...]:
        """The peaks of all units, in order."""
        return (self.embedding, *self.blocks, self.head)


def common_bytes(manifest: Manifest) -> int:
    """Bytes of the blobs that several units want, wherever they are."""
    return sum(blob.size_bytes for blob in manifest.blobs if is_common(manifest, blob))


def workspace_bytes(manifest: Manifest, *, chunk_tokens: int, context_tokens: int, slots: int) -> int:
    """What a session takes beside weights and KV cache: code, activations of a chunk, attention scores, dummies.

    The outputs of all matrices of a block have together (FLOPs per token / 2) / width values per position.
    """
    spare = manifest.numerics.spare_positions
    chunk = min(chunk_tokens, context_tokens) + spare
    width = manifest.width
    block = max(manifest.units[1:-1], key=lambda unit: unit.flops_per_token)
    projected = block.flops_per_token / 2 / width
    heads = max([LEAST_HEADS, *(width / cache.key_dim for cache in manifest.layers if cache.key_dim)])
    activations = 4 * chunk * (projected + heads * context_tokens)
    spare_kv = slots * spare * manifest.kv_bytes_per_token  # of all layers: a node has some
    tables = manifest.position_bytes * (context_tokens + spare)
    return SESSION_BYTES + math.ceil(ACTIVATION_COPIES * activations) + spare_kv + tables


def transient_bytes(manifest: Manifest, block_disk_bytes: int) -> int:
    """Resident bytes of matrices on their way from one form to another, while blocks are loaded."""
    return math.ceil(WIDENED_BLOCKS * block_disk_bytes) if manifest.precision == "fp16" else 0


def _weights(unit: Unit) -> int:
    """Numbers in a unit's matrices: each is multiplied and added once per token."""
    return unit.flops_per_token // 2
