"""Which stage of which ring a node has, and the segment it runs: worked out once, from the prepare command."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schemas.codec import WIRE_DTYPES, Dtype
from schemas.messages import Basis, BlobRef, DraftModel, Epoch, KvLayer, PrepareSegment, StageRef
from schemas.run_lengths import spare_positions, spare_rows

StageKey = tuple[str, Epoch, int]
"""(pipeline, epoch, stage): a node may have several stages of a ring, the first and the last above all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSpec:
    """A part of a model, ready to be opened for ``slots`` requests of ``context_tokens`` positions each.

    Two that are equal are the same segment, whatever ring it is for.
    """

    graph: BlobRef
    blobs: tuple[BlobRef, ...]
    """The weights that the graph refers to."""
    answer: BlobRef | None = None
    """What it has to compute before it is used; see `schemas.known_answer`."""
    kv_layers: tuple[KvLayer, ...]
    """Its KV caches, in order."""
    width_in: int
    """Values per position of the hidden state that comes in; 0 where token ids do."""
    width_out: int
    """Values per position of the hidden state that goes out; 0 where logits do."""
    vocab_size: int
    context_tokens: int
    slots: int
    chunk_tokens: int
    """The most positions of one request in a run."""
    same_bits: bool = False
    """Does a position get the same bits whatever run it is in? Then runs have dummies behind them."""
    wire: Dtype
    """Type of hidden states on the wire."""
    is_first: bool
    is_last: bool

    @property
    def folds_positions(self) -> bool:
        """Does a layer keep one state for all positions of a text?"""
        return any(layer.states for layer in self.kv_layers)

    @property
    def spare_positions(self) -> int:
        """Most dummies behind a run."""
        return spare_positions(self.same_bits)

    @property
    def spare_rows(self) -> int:
        """Most dummies of a run in matrices outside attention."""
        return spare_rows(self.same_bits)

    @property
    def files(self) -> tuple[BlobRef, ...]:
        """All files that have to be on disk to open the segment."""
        return (self.graph, *self.blobs, *((self.answer,) if self.answer else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """A stage of an epoch's ring: its place, its neighbours and its segment."""

    key: StageKey
    pipeline: str
    epoch: Epoch
    stage: int
    ring: tuple[StageRef, ...]
    node: str
    """Whose stage it is."""
    upstream: str
    """The node that sends what the stage computes on: that of the stage before or, for the first stage, of the last."""
    nodes: frozenset[str]
    """All nodes of the ring, each of which may have more than one stage."""
    is_first: bool
    is_last: bool
    segment: SegmentSpec
    blob_urls: tuple[str, ...]
    """Where the segment's files are served."""
    batches: tuple[int, ...]
    """How many batches of requests go round the ring at once, for 1, 2, ... open requests."""
    basis: Basis | None
    """The epoch that open requests come from."""
    max_message_bytes: int
    """The longest payload that the broker passes on for all nodes of the ring."""
    planned_bytes: int
    """Memory that the plan expects the node to need in all."""
    draft: SegmentSpec | None = None
    """Last stage: a whole small model, to guess with."""

    @property
    def files(self) -> tuple[BlobRef, ...]:
        """All files that have to be on disk to open the stage's models."""
        return (*self.segment.files, *(self.draft.files if self.draft else ()))

    @classmethod
    def of(cls, command: PrepareSegment) -> StageSpec:
        """The stage that a command asks for; the command's ``stage`` has to be one of its ring."""
        ring, stage = command.ring, command.stage
        is_first, is_last = stage == 0, stage == len(ring) - 1
        segment = SegmentSpec(
            graph=command.graph,
            blobs=command.blobs,
            answer=command.answer,
            kv_layers=command.kv_layers,
            width_in=command.width_in,
            width_out=command.width_out,
            vocab_size=command.vocab_size,
            context_tokens=command.context_tokens,
            slots=command.slots,
            chunk_tokens=command.chunk_tokens,
            same_bits=command.same_bits,
            wire=WIRE_DTYPES[command.wire_dtype],
            is_first=is_first,
            is_last=is_last,
        )
        return cls(
            key=(command.pipeline, command.epoch, stage),
            pipeline=command.pipeline,
            epoch=command.epoch,
            stage=stage,
            ring=ring,
            node=ring[stage].node,
            upstream=ring[stage - 1].node,
            nodes=frozenset(ref.node for ref in ring),
            is_first=is_first,
            is_last=is_last,
            segment=segment,
            blob_urls=command.blob_urls,
            batches=command.batches,
            basis=command.basis,
            max_message_bytes=command.max_message_bytes,
            planned_bytes=command.planned_bytes,
            draft=_draft_spec(command.draft, segment) if command.draft and is_last else None,
        )


def _draft_spec(draft: DraftModel, segment: SegmentSpec) -> SegmentSpec:
    """All of a small model as one segment beside that of its stage, with a slot for each of its requests."""
    return replace(
        segment,
        graph=draft.graph,
        blobs=draft.blobs,
        answer=None,
        kv_layers=draft.kv_layers,
        width_in=0,
        width_out=0,
        vocab_size=draft.vocab_size,
        context_tokens=min(draft.context_tokens, segment.context_tokens),
        same_bits=draft.same_bits,
        is_first=True,
    )
