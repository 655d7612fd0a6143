"""Checks of segments: the answer to a fixed input, beside the orchestrator's and beside earlier ones of their own.

The first answer, when the segment was loaded, may differ from the orchestrator's as much as other processors' kernels
do. Later ones come from the same machine and the same files: they have to be the first again, to the bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.errors import SegmentUnusable, WrongAnswers
from edge_node.runtime.segment import Segment
from edge_node.wire.activations import quiet
from schemas.codec import Dtype
from schemas.known_answer import KnownAnswer, decode_known_answer, places

Array = NDArray[Any]
ROUNDING = 2.0**-10
"""A value may be off by this share of itself: its input may have come as a half, and a few values of a hidden state are
thousands of times what a layer adds to them."""


class SelfCheck:
    """The check of one segment, which it keeps in memory: is its answer what it should be?"""

    def __init__(self, segment: Segment, path: Path) -> None:
        """Let the segment answer the input in a file, twice.

        Raises:
            SegmentUnusable: the file is for another segment, or ONNX Runtime can't run this one.
            WrongAnswers: the answer is not the expected one.
        """
        self._segment = segment
        self._known = decode_known_answer(path.read_bytes())
        _check_widths(segment, self._known)
        first = answer(segment, self._known)
        compare(first, self._known)
        self._first: Array | None = first
        """None where this machine does not give the same answer twice."""
        if answer(segment, self._known).tobytes() != first.tobytes():
            self._first = None

    @property
    def gives_the_same_bits(self) -> bool:
        """Did the segment give the same answer twice? Then it has to go on doing so."""
        return self._first is not None

    def repeat(self) -> None:
        """Let the segment answer again; the KV cache of requests is not touched.

        Raises:
            SegmentUnusable: ONNX Runtime can't run it any more.
            WrongAnswers: the answer is not what it was.
        """
        found = answer(self._segment, self._known)
        if self._first is None:
            compare(found, self._known)
        elif found.tobytes() != self._first.tobytes():
            raise WrongAnswers(_changed(found, self._first))


def answer(segment: Segment, known: KnownAnswer) -> Array:
    """What a segment makes of the input: (rows, width_out) float32."""
    chunk = min(known.positions - 1, segment.spec.chunk_tokens) // 2 * 2  # never a chunk of one position
    rows: list[Array] = []
    position = 0
    with segment.aside(known.positions), quiet():
        while position < known.positions:
            left = known.positions - 1 - position
            count = min(chunk, left) or 1
            _put(segment, known, position, count)
            output = segment.run(0, (position,), count).output
            # Of logits there is one row per run: that of a chunk counts where the chunk ends.
            if not segment.spec.is_last or left <= count:
                rows.append(output.astype(np.float32))
            position += count
    return np.concatenate(rows)


def _put(segment: Segment, known: KnownAnswer, begin: int, count: int) -> None:
    if segment.spec.is_first:
        segment.ids_input(count)[:] = np.frombuffer(known.given, "<i4")[begin : begin + count]
        return
    hidden = np.frombuffer(known.given, "<f4").reshape(known.positions, known.width_in)
    segment.take_in(hidden[begin : begin + count].tobytes(), Dtype.FP32, count)


def differences(found: Array, known: KnownAnswer) -> Array:
    """By how much an answer (rows, width_out) is off at each value that is kept, rounding left out: (rows, values)."""
    expected = _expected(known)
    off = np.abs(found[:, places(known.width_out, known.values)].astype(np.float64) - expected)
    return np.maximum(off - ROUNDING * np.abs(expected), 0.0)  # what is not a number stays so


def shares(found: Array, known: KnownAnswer) -> Array:
    """By how much each row of an answer is off, as a share of what the segment adds to its input."""
    with quiet(), np.errstate(divide="ignore"):
        norms = np.sqrt((differences(found, known) ** 2).sum(axis=1))
        result: Array = norms / np.frombuffer(known.norms, "<f4")
    return result


def compare(found: Array, known: KnownAnswer) -> None:
    """Is an answer (rows, width_out) close enough to the expected one?

    Raises:
        WrongAnswers: no; the message says by how much and where.
    """
    off = shares(found, known)
    if (off <= known.tolerance).all():  # what is not a number is not at most anything
        return
    row = int(np.nan_to_num(off, nan=np.inf).argmax())
    with quiet():
        column = int(np.nan_to_num(differences(found, known)[row], nan=np.inf).argmax())
    place = places(known.width_out, known.values)[column]
    raise WrongAnswers(
        f"its answer to a known input is wrong: row {row} is off by {off[row]:.2g}, allowed are"
        f" {known.tolerance:.2g}; most at value {place}, {found[row, place]:.4g} instead of"
        f" {_expected(known)[row, column]:.4g}"
    )


def _expected(known: KnownAnswer) -> Array:
    return np.frombuffer(known.expected, "<f4").reshape(known.rows, known.values)


def _changed(found: Array, first: Array) -> str:
    with quiet():
        differences = np.nan_to_num(np.abs(found.astype(np.float64) - first), nan=np.inf)
    row, column = np.unravel_index(int(differences.argmax()), differences.shape)
    return (
        f"its answer to a known input has changed since it was loaded: {np.count_nonzero(differences)} of"
        f" {differences.size} values, most at row {row}, value {column}, {found[row, column]:.4g} instead of"
        f" {first[row, column]:.4g}"
    )


def _check_widths(segment: Segment, known: KnownAnswer) -> None:
    spec = segment.spec
    width_out = spec.vocab_size if spec.is_last else spec.width_out
    rows = 2 if spec.is_last else known.positions
    fits = known.positions <= spec.context_tokens
    if (known.width_in, known.width_out, known.rows) != (spec.width_in, width_out, rows) or not fits:
        raise SegmentUnusable("its known answer is that of another segment")
