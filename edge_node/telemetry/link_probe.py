"""How long a model's own activations take through the broker and back."""

from __future__ import annotations

import statistics
import time

import numpy as np

from edge_node.telemetry.spread import spread_s
from edge_node.wire.activations import decode_activation, encode_activation
from schemas.codec import (
    WIRE_DTYPES,
    Frame,
    Kind,
    activation_positions,
    decode_frame,
    encode_frame,
)
from schemas.errors import ContractError
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import PROBE_CHUNK_TOKENS, Epoch, WireDtype

_SMALL_ECHOES = 21
_LARGE_ECHOES = 4
_ECHO_TIMEOUT_S = 2.0
_EPOCH = Epoch(generation=0, counter=0)


class LinkProbe:
    """Measures a link by echoes of a decode activation, then of a prefill chunk; encoding them counts, as in a ring."""

    def __init__(self, width: int, wire_dtype: WireDtype, max_message_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        """Plan the echoes. A chunk has the positions that fit into ``max_message_bytes``; longer ones are not sent."""
        self._dtype = WIRE_DTYPES[wire_dtype]
        self._width = max(width, 1)
        self._chunk = min(PROBE_CHUNK_TOKENS, activation_positions(self._dtype, self._width, max_message_bytes))
        self._counts = [1] * (_SMALL_ECHOES if self._chunk else 0)
        self._counts += [self._chunk] * (_LARGE_ECHOES if self._chunk > 1 else 0)
        self._out: tuple[int, float, float, int] | None = None
        self._times: dict[int, list[tuple[float, float, int]]] = {1: [], self._chunk: []}

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
        """Take in the echo of the message on its way."""
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
        """What was measured, as members of `NodeProfile`; empty without echoes."""
        small, large = self._times[1][1:], self._times[self._chunk] if self._chunk > 1 else []
        if not small:
            return {}
        hop_s = statistics.median(time_s for time_s, _, _ in small)
        found = {
            "hop_s": hop_s,
            "hop_spread_s": spread_s([time_s for time_s, _, _ in small]),
            "hop_busy_s": min(hop_s, statistics.median(cpu_s for _, cpu_s, _ in small)),
        }
        if large:
            extra_s = statistics.median(time_s for time_s, _, _ in large) - hop_s
            found["link_bytes_per_s"] = (large[0][2] - small[0][2]) / max(extra_s, 1e-6)
        return found
