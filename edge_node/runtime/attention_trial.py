"""Attention by itself, tried on this processor: does a position get the same bits whatever run it is in?

In a segment the next matrix may round to eight bits, which hides a last bit that differs more often than not. So
attention is tried alone, in a graph of that one node, which is put together here: nodes have no library for graphs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from schemas.run_lengths import RunLengths, cut_into_runs

_POSITIONS = 48
_LENGTHS = ((1,), (2,), (3,), (5,), (7,), (17,), (31,))
"""Of the runs that the text is computed in, taken in turn, against one run."""
_HEADS = 2
_TYPES = {"float32": 1, "float16": 10}
_INT32, _INT_ATTRIBUTE = 6, 2
_INPUTS = ("query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length")
_OUTPUTS = ("output", "present_key", "present_value")
_DOMAIN = "com.microsoft"

Array = NDArray[np.floating]


@functools.cache
def keeps_bits(runs: RunLengths, head_dim: int, dtype: str, threads: int) -> bool:
    """Is it so with heads of this size, in float32 or float16, if attention is as long as ``runs`` say?"""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    graph = _graph(head_dim, _TYPES[dtype])
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    shape = (3, 1, _POSITIONS, _HEADS * head_dim)
    text = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = _attend(session, text, head_dim, runs, (_POSITIONS,))
    return all(_attend(session, text, head_dim, runs, lengths) == expected for lengths in _LENGTHS)


def _attend(
    session: ort.InferenceSession, text: Array, head_dim: int, runs: RunLengths, lengths: Sequence[int]
) -> bytes:
    """What comes out for each position of queries, keys and values (3, 1, positions, width)."""
    past = [np.zeros((1, _HEADS, 0, head_dim), text.dtype)] * 2
    rows = []
    for start, stop in cut_into_runs(_POSITIONS, lengths):
        attended = runs.attended(stop - start)
        given = np.zeros((3, 1, attended, text.shape[3]), text.dtype)
        given[:, :, : stop - start] = text[:, :, start:stop]
        total = start + attended
        feeds = (*given, *past, np.array([total - 1], np.int32), np.array(total, np.int32))
        output, *present = session.run(_OUTPUTS, dict(zip(_INPUTS, feeds, strict=True)))
        past = [part[:, :, :stop] for part in present]
        rows.append(output[:, : stop - start])
    return np.concatenate(rows, axis=1).tobytes()


# --- the graph, in ONNX's protocol buffers (the numbers of fields are those of onnx.proto) ----------------------------


def _graph(head_dim: int, elem_type: int) -> bytes:
    """A model of one GroupQueryAttention."""
    width = _HEADS * head_dim
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("query", "key", "value"), (1, 0, width))
    shapes |= dict.fromkeys(("past_key", "past_value"), (1, _HEADS, 0, head_dim))
    inputs = b"".join(_field(11, _value(name, elem_type, shape)) for name, shape in shapes.items())
    inputs += _field(11, _value("seqlens_k", _INT32, (1,))) + _field(11, _value("total_sequence_length", _INT32, ()))
    outputs = _field(12, _value("output", elem_type, (1, 0, width)))
    outputs += b"".join(_field(12, _value(name, elem_type, (1, _HEADS, 0, head_dim))) for name in _OUTPUTS[1:])
    node = b"".join(_field(1, name.encode()) for name in _INPUTS) + b"".join(_field(2, n.encode()) for n in _OUTPUTS)
    node += _field(4, b"GroupQueryAttention") + _field(7, _DOMAIN.encode())
    for name in ("num_heads", "kv_num_heads"):
        node += _field(5, _field(1, name.encode()) + _number(3, _HEADS) + _number(20, _INT_ATTRIBUTE))
    graph = _field(1, node) + _field(2, b"attention") + inputs + outputs
    opsets = _field(8, _number(2, 17)) + _field(8, _field(1, _DOMAIN.encode()) + _number(2, 1))
    return _number(1, 8) + _field(7, graph) + opsets


def _value(name: str, elem_type: int, shape: Sequence[int]) -> bytes:
    """An input or output; 0 stands for a dimension that varies."""
    dims = b"".join(_field(1, _number(1, size) if size else _field(2, f"{name}_{axis}".encode()))
                    for axis, size in enumerate(shape))  # fmt: skip
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, elem_type) + _field(2, dims)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
