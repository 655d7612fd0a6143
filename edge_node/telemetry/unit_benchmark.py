"""How fast a node runs a model's own units."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker import heap
from edge_node.errors import NodeError
from edge_node.runtime import process_heap
from edge_node.runtime.load_limits import memory_fence, time_limit
from edge_node.runtime.segment import Segment
from edge_node.stage_spec import SegmentSpec
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry.spread import spread_s
from schemas.codec import WIRE_DTYPES
from schemas.messages import PROBE_BATCH, PROBE_CHUNK_TOKENS, PROBE_CONTEXT_TOKENS, ProbeNode, ProbePart, UnitProfile
from schemas.units import EMBED, HEAD

_log = logging.getLogger(__name__)
_DECODE_RUNS = 15
_BATCHED_RUNS = 7
_PREFILL_RUNS = 3
_LEAST_RUNS = 3
_ROUNDS = 3
"""Over all parts, while time allows: a processor that is slow or quick for a moment is so for one part of it all."""
_PAUSE_S = 0.002
"""Between decode runs: in a ring a node waits between tokens, and caches cool down."""


@dataclass(slots=True)
class _Runs:
    """Times of the runs of one part, in seconds."""

    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    batched_s: list[float] = field(default_factory=list)


def measure_parts(
    command: ProbeNode, store: BlobStore, threads: int, speed: float, memory_bytes: int | None = None
) -> tuple[UnitProfile, ...]:
    """How fast this node, which may use so much memory, runs each part.

    One part is in memory at a time; a further round only if it would be over in time, going by the one before.
    """
    found = [_Runs() for _ in command.parts]
    ends_s = time.monotonic() + command.time_limit_s
    for _ in range(_ROUNDS):
        began_s = time.monotonic()
        for part, runs in zip(command.parts, found, strict=True):
            with memory_fence.around(memory_bytes, sum(blob.size_bytes for blob in (part.graph, *part.blobs))):
                _measure_part(command, part, store, threads, speed, runs)
        if 2 * time.monotonic() - began_s > ends_s:
            break
    process_heap.forget_peak()  # of single units side by side with nothing: no plan has that
    return tuple(_unit_profile(part, runs) for part, runs in zip(command.parts, found, strict=True))


def _unit_profile(part: ProbePart, runs: _Runs) -> UnitProfile:
    return UnitProfile(
        kind=part.kind,
        units=part.units,
        decode_s=statistics.median(runs.decode_s),
        decode_spread_s=spread_s(runs.decode_s),
        decode_batched_s=statistics.median(runs.batched_s) / PROBE_BATCH if runs.batched_s else None,
        prefill_s=statistics.median(runs.prefill_s) / PROBE_CHUNK_TOKENS,
        weight_bytes=sum(blob.size_bytes for blob in part.blobs),
    )


def _measure_part(
    command: ProbeNode, part: ProbePart, store: BlobStore, threads: int, speed: float, runs: _Runs
) -> None:
    spec = SegmentSpec(
        graph=part.graph,
        blobs=part.blobs,
        kv_layers=part.kv_layers,
        width_in=part.width_in,
        width_out=part.width_out,
        vocab_size=command.vocab_size,
        context_tokens=PROBE_CONTEXT_TOKENS,
        slots=PROBE_BATCH,
        chunk_tokens=PROBE_CHUNK_TOKENS,
        same_bits=command.same_bits,
        wire=WIRE_DTYPES[command.wire_dtype],
        is_first=part.kind == EMBED,
        is_last=part.kind == HEAD,
    )
    segment = Segment(spec, store.path(part.graph.sha256), threads=threads, emulated_speed=speed)
    with time_limit(segment):
        segment.warm_up()
    deadline_s = time.monotonic() + command.time_limit_s / len(command.parts)
    runs.prefill_s += _times(segment, (0,), PROBE_CHUNK_TOKENS, _PREFILL_RUNS, deadline_s)
    runs.decode_s += _times(segment, (PROBE_CHUNK_TOKENS,), 1, _DECODE_RUNS, deadline_s)
    try:
        runs.batched_s += _times(segment, (PROBE_CHUNK_TOKENS,) * PROBE_BATCH, 1, _BATCHED_RUNS, deadline_s)
    except NodeError as error:
        _log.info("%s runs one request at a time: %s", part.kind, error)
    del segment
    heap.give_back()


def _times(segment: Segment, positions: Sequence[int], count: int, runs: int, deadline_s: float) -> list[float]:
    """Compute times of some runs; fewer when the time is up."""
    times_s = [segment.run(0, positions, count).compute_s]
    while len(times_s) <= runs and (len(times_s) <= _LEAST_RUNS or time.monotonic() < deadline_s):
        time.sleep(_PAUSE_S)
        times_s.append(segment.run(0, positions, count).compute_s)
    return times_s[1:]  # the first one warms up
