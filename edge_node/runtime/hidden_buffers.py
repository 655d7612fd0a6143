"""The buffers in which hidden states enter and leave a segment: as floats, or as halves that its graph converts.

A graph that takes and gives halves saves the calls of NumPy on both sides of a run: of a step of one position, what
arrived is copied into the graph's input and what is to be sent is read from its output, through memoryviews that are
ready. Everything else (chunks of a prompt, scales, what is not finite) is decided by ``edge_node.wire.activations``, so
the bytes on the wire are the same either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_node.wire.activations import LEAST_MEAN_SQUARE, SQUARES_END, decode_activation, encode_activation
from schemas.codec import Dtype
from schemas.segment_tensors import HALVES_IN, HALVES_OUT, HIDDEN_IN, SCALE_IN, SQUARES_OUT

Array = NDArray[Any]
Payload = bytes | bytearray | memoryview


class Tensor(NamedTuple):
    """A tensor of the graph: ``data`` is (rows, width)."""

    name: str
    data: Array


class FloatsIn:
    """The input of a graph that takes hidden states as floats."""

    def __init__(self, rows: int, width: int, dtype: Any) -> None:
        self._data = np.zeros((rows, width), dtype)
        self._first = self._data[:1]  # even a slice takes its time between two runs
        self.tensors = (Tensor(HIDDEN_IN, self._data),)

    def take(self, payload: Payload, dtype: Dtype, begin: int, count: int) -> None:
        """Put a payload into rows [begin, begin + count).

        Raises:
            BadInput: a value is NaN or infinite.
        """
        out = self._data[begin : begin + count] if begin or count != 1 else self._first
        decode_activation(payload, dtype, out)

    def clear(self, begin: int, end: int) -> None:
        """Put zeros into rows [begin, end)."""
        self._data[begin:end] = 0


class HalvesIn:
    """The inputs of a graph that takes hidden states as halves and a power of two per position."""

    def __init__(self, rows: int, width: int) -> None:
        halves = np.zeros((rows, width), np.float16)
        scales = np.ones((rows, 1), np.float32)
        self._halves, self._rows = _bytes_of(halves), _rows_of(halves)
        self._width = width
        self._scales: Any = scales.reshape(-1).data
        self.tensors = (Tensor(HALVES_IN, halves), Tensor(SCALE_IN, scales))

    def take(self, payload: Payload, dtype: Dtype, begin: int, count: int) -> None:
        """Put a payload into rows [begin, begin + count); what is not finite in a single position is not found here.

        Such a value goes through every layer to the sum of squares or the logits, and is refused there.
        """
        if count == 1 and dtype is Dtype.FP16 and payload[-1] == 0:
            self._rows[begin][:] = payload[:-1]
            if self._scales[begin] != 1.0:
                self._scales[begin] = 1.0
            return
        floats = np.empty((count, self._width), np.float32)
        decode_activation(payload, dtype, floats)
        if dtype is not Dtype.FP16:
            payload = encode_activation(floats, Dtype.FP16)
        row_bytes = 2 * self._width
        self._halves[begin * row_bytes : (begin + count) * row_bytes] = payload[: count * row_bytes]
        for index, exponent in enumerate(memoryview(payload)[count * row_bytes :].cast("b"), begin):
            self._scales[index] = 2.0**exponent

    def clear(self, begin: int, end: int) -> None:
        """Put zeros into rows [begin, end)."""
        for index in range(begin, end):
            self._rows[index][:] = bytes(2 * self._width)
            self._scales[index] = 1.0


class FloatsOut:
    """The output of a graph that gives hidden states (or logits) as floats."""

    def __init__(self, name: str, data: Array, wire: Dtype) -> None:
        self._data, self._wire = data, wire
        self._first = data[:1]
        self.tensors: tuple[Tensor, ...] = (Tensor(name, data),)

    def rows(self, count: int) -> Array:
        """The first ``count`` rows as they are."""
        return self._data[:count] if count != 1 else self._first

    def give(self, begin: int, count: int) -> bytes:
        """The payload of rows [begin, begin + count).

        Raises:
            NotFinite: a value is NaN or infinite.
        """
        return encode_activation(self._data[begin : begin + count] if begin else self.rows(count), self._wire)


class HalvesOut(FloatsOut):
    """The outputs of a graph that gives hidden states as halves, too, with the sum of squares of each position."""

    def __init__(self, name: str, data: Array) -> None:
        super().__init__(name, data, Dtype.FP16)
        halves = np.zeros(data.shape, np.float16)
        squares = np.zeros((len(data), 1), np.float32)
        self._halves, self._rows = _bytes_of(halves), _rows_of(halves)
        self._row_bytes = 2 * data.shape[1]
        self._squares = squares.reshape(-1).data
        self._least = LEAST_MEAN_SQUARE * data.shape[1]
        self.tensors = (*self.tensors, Tensor(HALVES_OUT, halves), Tensor(SQUARES_OUT, squares))

    def give(self, begin: int, count: int) -> bytes:
        """The payload of rows [begin, begin + count), as ``FloatsOut.give``; it takes the halves where they will do."""
        if count == 1 and self._least <= self._squares[begin] < SQUARES_END:
            return b"".join((self._rows[begin], b"\0"))
        end = begin + count
        if all(self._least <= squares < SQUARES_END for squares in self._squares[begin:end]):
            return b"".join((self._halves[begin * self._row_bytes : end * self._row_bytes], bytes(count)))
        return super().give(begin, count)


def entry_for(dtypes: Mapping[str, Any], rows: int, width: int) -> FloatsIn | HalvesIn:
    """The buffers of a graph's hidden states at its input; ``dtypes`` are those of all its tensors, by name."""
    return HalvesIn(rows, width) if HALVES_IN in dtypes else FloatsIn(rows, width, dtypes.get(HIDDEN_IN))


def exit_for(dtypes: Mapping[str, Any], name: str, data: Array, wire: Dtype) -> FloatsOut:
    """The buffers for a graph's output ``name``: ``data`` and, if the graph gives them, the halves."""
    return HalvesOut(name, data) if HALVES_OUT in dtypes else FloatsOut(name, data, wire)


def _bytes_of(halves: Array) -> memoryview:
    return halves.reshape(-1).data.cast("B")


def _rows_of(halves: Array) -> list[memoryview]:
    return [row.data.cast("B") for row in halves]
