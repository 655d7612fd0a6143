"""A model's segments, opened in this process as a node opens them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from edge_node.runtime.segment import Segment
from edge_node.stage_spec import SegmentSpec
from orchestrator.model.model import Model
from orchestrator.model.precision import PROFILES
from schemas.codec import WIRE_DTYPES
from schemas.messages import BlobRef, WireDtype


def open_segment(
    model: Model,
    start: int,
    stop: int,
    *,
    folder: Path | None = None,
    wire: WireDtype = "fp32",
    emulated_speed: float = 1.0,
    packs_corrections: bool = True,
    **changes: Any,
) -> Segment:
    """The segment [start, stop); ``folder``: where its files are, if not in the store."""
    spec = segment_spec(model, start, stop, wire=wire, **changes)
    graph = (folder or model.blobs_folder) / spec.graph.sha256
    return Segment(spec, graph, threads=1, emulated_speed=emulated_speed, packs_corrections=packs_corrections)


def segment_spec(
    model: Model, start: int, stop: int, *, profile: str | None = None, wire: WireDtype = "fp32", **changes: Any
) -> SegmentSpec:
    """The segment [start, stop) as nodes are told of it."""
    manifest = model.manifest
    context_tokens = changes.pop("context_tokens", 64)
    numerics = PROFILES[profile or manifest.profile]
    positions = context_tokens + numerics.spare_positions
    spec = model.segment(start, stop, profile, wire=wire, positions=positions)
    wanted = SegmentSpec(
        graph=BlobRef(sha256=spec.graph.sha256, size_bytes=spec.graph.size_bytes),
        blobs=(),
        kv_layers=tuple(layer.as_told() for layer in manifest.layers if layer.layer in spec.layers),
        width_in=spec.width_in or 0,
        width_out=spec.width_out or 0,
        vocab_size=manifest.vocab_size,
        context_tokens=context_tokens,
        slots=2,
        chunk_tokens=16,
        same_bits=numerics.same_bits,
        wire=WIRE_DTYPES[wire],
        is_first=start == 0,
        is_last=stop == manifest.num_units,
    )
    return dataclasses.replace(wanted, **changes)
