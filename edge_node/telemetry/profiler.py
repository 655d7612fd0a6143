"""A node measures itself with the model's own units, and its link with the model's own activations.

The link is measured by the thread that owns the bus, one echo after the other; then a thread of its own downloads and
runs small segments beside whatever the node serves. Nothing waits for either.
"""

from __future__ import annotations

import logging
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edge_node.errors import NodeError
from edge_node.runtime import process_heap
from edge_node.runtime.segment import Segment
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device
from edge_node.wire.activations import decode_activation, encode_activation
from schemas.codec import Dtype, Frame, Kind, decode_frame, encode_frame
from schemas.errors import ContractError
from schemas.messages import Epoch, NodeProfile, PrepareSegment, ProbeNode, ProbePart, StageRef, UnitProfile

_log = logging.getLogger(__name__)

PREFILL_TOKENS = 64
BATCH = 4
_DECODE_RUNS = 15
_BATCHED_RUNS = 7
_PREFILL_RUNS = 3
_LEAST_RUNS = 3
_ROUNDS = 3
"""Over all parts, while time allows: a processor that is slow or quick for a moment is so for one part of it all."""
_PAUSE_S = 0.002
"""Between decode runs: in a ring a node waits between tokens, and caches cool down."""
_SMALL_ECHOES = 21
_LARGE_ECHOES = 4
_ECHO_TIMEOUT_S = 2.0
_EPOCH = Epoch(generation=0, counter=0)


class LinkProbe:
    """Echoes of one decode activation, then of a prefill chunk; encoding and decoding count as they do in a ring."""

    def __init__(self, width: int, wire_dtype: str) -> None:
        self._dtype = Dtype[wire_dtype.upper()]
        self._width = max(width, 1)
        self._counts = [1] * _SMALL_ECHOES + [PREFILL_TOKENS] * _LARGE_ECHOES
        self._out: tuple[int, float, float, int] | None = None
        self._times: dict[int, list[tuple[float, float, int]]] = {1: [], PREFILL_TOKENS: []}

    @property
    def done(self) -> bool:
        """Is there nothing left to send or wait for?"""
        if self._out and time.perf_counter() - self._out[1] > _ECHO_TIMEOUT_S:
            return True
        return not self._counts and self._out is None

    def next_message(self) -> bytes | None:
        """What to publish now; None while an echo is on its way."""
        if self._out is not None or not self._counts:
            return None
        count = self._counts.pop(0)
        started_s, cpu_s = time.perf_counter(), time.thread_time()
        hidden = np.ones((count, self._width), np.float32)
        frame = Frame(
            kind=Kind.ACTIVATION, request=0, epoch=_EPOCH, attempt=0, position=0, count=count, width=self._width,
            dtype=self._dtype, payload=encode_activation(hidden, self._dtype),
        )  # fmt: skip
        data = encode_frame(frame)
        self._out = (count, started_s, cpu_s, len(data))
        return data

    def echo(self, payload: bytes) -> None:
        """The message came back."""
        if self._out is None:
            return
        count, started_s, cpu_s, size_bytes = self._out
        try:
            frame = decode_frame(payload)
        except ContractError:
            return
        if frame.count != count or frame.width != self._width:
            return
        decode_activation(frame.payload, frame.dtype, np.empty((count, self._width), np.float32))
        self._times[count].append((time.perf_counter() - started_s, time.thread_time() - cpu_s, size_bytes))
        self._out = None

    def figures(self) -> dict[str, float]:
        """Members of `NodeProfile`; nothing without echoes."""
        small, large = self._times[1][1:], self._times[PREFILL_TOKENS]
        if not small:
            return {}
        hop_s = statistics.median(time_s for time_s, _, _ in small)
        found = {
            "hop_s": hop_s,
            "hop_spread_s": _spread([time_s for time_s, _, _ in small]),
            "hop_busy_s": min(hop_s, statistics.median(cpu_s for _, cpu_s, _ in small)),
        }
        if large:
            extra_s = statistics.median(time_s for time_s, _, _ in large) - hop_s
            found["link_bytes_per_s"] = (large[0][2] - small[0][2]) / max(extra_s, 1e-6)
        return found


class Profiler:
    """Answers ``command.probe``. All methods are for the thread that owns the bus."""

    def __init__(
        self,
        store: BlobStore,
        *,
        node: str,
        incarnation: int,
        threads: int,
        emulated_speed: float,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._blank = NodeProfile(node=node, incarnation=incarnation, fingerprint="")
        self._threads = threads
        self._speed = emulated_speed
        self._wake = wake
        self._command: ProbeNode | None = None
        self._started_s = 0.0
        self._link: LinkProbe | None = None
        self._refusals: list[NodeProfile] = []
        self._answers: queue.SimpleQueue[NodeProfile] = queue.SimpleQueue()
        self._only_probed: set[str] = set()
        """Blobs that are here for the measurement alone, as far as is known."""
        self._wanted: set[str] = set()

    def start(self, command: ProbeNode, *, busy: bool) -> None:
        """Begin to measure, unless requests are open (``busy``) or a measurement goes on."""
        if self._command is not None or busy:
            reason = "it measures itself already" if self._command else "it serves requests"
            self._refusals.append(replace(self._blank, fingerprint=command.fingerprint, failure=reason))
            return
        self._command = command
        self._started_s = time.monotonic()
        self._link = LinkProbe(command.width, command.wire_dtype)

    @property
    def measures_link(self) -> bool:
        """Is an echo of the measurement on its way, or due?"""
        return self._link is not None

    def link_messages(self) -> Iterable[bytes]:
        """What to publish to oneself now."""
        link = self._link
        if link is None:
            return ()
        if link.done:
            self._link = None
            threading.Thread(target=self._measure, args=(link.figures(),), name="profile", daemon=True).start()
            return ()
        message = link.next_message()
        return () if message is None else (message,)

    def echo(self, payload: bytes) -> None:
        """An echo came back."""
        if self._link is not None:
            self._link.echo(payload)

    def finished(self) -> Iterable[NodeProfile]:
        """Answers to send."""
        answers, self._refusals = self._refusals, []
        while not self._answers.empty():
            answers.append(self._answers.get())
            self._command = None
        return answers

    def wanted(self, spec: PrepareSegment) -> None:
        """A segment needs these blobs: they stay."""
        self._wanted |= {spec.graph.sha256, *(blob.sha256 for blob in spec.blobs)}

    def plan_committed(self) -> None:
        """A plan is in force: what only the measurement needed is deleted."""
        for sha256 in self._only_probed - self._wanted:
            if not self._store.is_standby(sha256):
                self._store.path(sha256).unlink(missing_ok=True)
        self._only_probed.clear()

    def _measure(self, link: dict[str, float]) -> None:
        command = self._command
        assert command
        answer = replace(self._blank, fingerprint=command.fingerprint, **link)  # type: ignore[arg-type]
        try:
            for part in command.parts:
                blobs = (part.graph, *part.blobs)
                self._only_probed |= {blob.sha256 for blob in blobs if not self._store.path(blob.sha256).exists()}
                self._store.fetch(blobs, command.blob_urls, on_progress=lambda *_: None)
            units = _measure_parts(command, self._store, self._threads, self._speed)
            answer = replace(
                answer,
                units=units,
                available_bytes=device.available_bytes(),
                storage_bytes=self._store.limit_bytes,
            )
        except NodeError as error:
            answer = replace(answer, failure=str(error)[:900])
        except Exception as error:  # the orchestrator must hear of it, whatever it was
            _log.exception("measuring %s failed", command.model)
            answer = replace(answer, failure=f"{type(error).__name__}: {error}"[:900])
        self._answers.put(replace(answer, took_s=time.monotonic() - self._started_s))
        self._wake()


@dataclass(slots=True)
class _Runs:
    """What one part's runs took, in seconds, and what it took of memory."""

    prefill_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    batched_s: list[float] = field(default_factory=list)
    resident_bytes: int = 0


def _measure_parts(command: ProbeNode, store: BlobStore, threads: int, speed: float) -> tuple[UnitProfile, ...]:
    """One part in memory at a time; a further round only if it would be over in time, going by the one before."""
    found = [_Runs() for _ in command.parts]
    ends_s = time.monotonic() + command.time_limit_s
    for _ in range(_ROUNDS):
        began_s = time.monotonic()
        for index, runs in enumerate(found):
            _measure_part(command, index, store, threads, speed, runs)
        if 2 * time.monotonic() - began_s > ends_s:
            break
    return tuple(_unit_profile(part, runs) for part, runs in zip(command.parts, found, strict=True))


def _unit_profile(part: ProbePart, runs: _Runs) -> UnitProfile:
    return UnitProfile(
        kind=part.kind,
        units=part.units,
        decode_s=statistics.median(runs.decode_s),
        decode_spread_s=_spread(runs.decode_s),
        decode_batched_s=statistics.median(runs.batched_s) / BATCH if runs.batched_s else None,
        prefill_s=statistics.median(runs.prefill_s) / PREFILL_TOKENS,
        resident_bytes=runs.resident_bytes,
        weight_bytes=sum(blob.size_bytes for blob in part.blobs),
    )


def _measure_part(command: ProbeNode, index: int, store: BlobStore, threads: int, speed: float, runs: _Runs) -> None:
    part, stages = command.parts[index], {"embed": 0, "block": 1, "head": 2}
    spec = PrepareSegment(
        pipeline="probe",
        epoch=Epoch(generation=0, counter=index),
        stage=stages[part.kind],
        ring=tuple(StageRef(node="probe", start=unit, stop=unit + 1) for unit in range(3)),
        model=command.model,
        graph=part.graph,
        blobs=part.blobs,
        blob_urls=command.blob_urls,
        kv_layers=part.kv_layers,
        width_in=part.width_in,
        width_out=part.width_out,
        vocab_size=command.vocab_size,
        context_tokens=2 * PREFILL_TOKENS,
        slots=BATCH,
        chunk_tokens=PREFILL_TOKENS,
        wire_dtype=command.wire_dtype,
        planned_bytes=0,
    )
    before_bytes = device.memory_bytes()[0]
    segment = Segment(spec, store.path(part.graph.sha256), threads=threads, emulated_speed=speed)
    segment.warm_up()
    after_bytes = device.memory_bytes()[0]
    runs.resident_bytes = runs.resident_bytes or max(0, after_bytes - before_bytes)
    deadline_s = time.monotonic() + command.time_limit_s / len(command.parts)
    runs.prefill_s += _times(segment, (0,), PREFILL_TOKENS, _PREFILL_RUNS, deadline_s)
    runs.decode_s += _times(segment, (PREFILL_TOKENS,), 1, _DECODE_RUNS, deadline_s)
    try:
        runs.batched_s += _times(segment, (PREFILL_TOKENS,) * BATCH, 1, _BATCHED_RUNS, deadline_s)
    except NodeError as error:
        _log.info("%s runs one request at a time: %s", part.kind, error)
    del segment
    process_heap.give_back()


def _times(segment: Segment, positions: Sequence[int], count: int, runs: int, deadline_s: float) -> list[float]:
    """Compute times of some runs; fewer when the time is up."""
    times_s = [segment.run(0, positions, count).compute_s]
    while len(times_s) <= runs and (len(times_s) <= _LEAST_RUNS or time.monotonic() < deadline_s):
        time.sleep(_PAUSE_S)
        times_s.append(segment.run(0, positions, count).compute_s)
    return times_s[1:]  # the first one warms up


def _spread(times_s: Sequence[float]) -> float:
    """From the first to the third quartile."""
    ordered = sorted(times_s)
    return ordered[(3 * len(ordered) - 1) // 4] - ordered[len(ordered) // 4]
