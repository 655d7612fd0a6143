"""Attention by itself, tried on this processor: does a position get the same bits whatever run it is in?

In a segment the next matrix may round to eight bits, which hides a last bit that differs more often than not. So
attention is tried alone, in a graph of that one node.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_node.runtime import graph_writer
from schemas.run_lengths import RunLengths, cut_into_runs

_POSITIONS = 48
_LENGTHS = ((1,), (2,), (3,), (5,), (7,), (17,), (31,))
"""Of the runs that the text is computed in, taken in turn, against one run."""
_HEADS = 2
_TYPES = {"float32": graph_writer.FLOAT, "float16": graph_writer.FLOAT16, "int8": graph_writer.INT8}
_ROUNDED = "int8"
_STEP = 1 / 32
"""What a step of rounded keys and values is worth: the text's values are mostly below 4."""
_SCALES = ("k_scale", "v_scale")
_INPUTS = ("query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length")
_FIRST_SCALES = 12
"""The input with the scales of keys."""
_OUTPUTS = ("output", "present_key", "present_value")

Array = NDArray[np.floating]


@functools.cache
def keeps_bits(runs: RunLengths, head_dim: int, dtype: str, threads: int) -> bool:
    """Is it so with heads of this size, in float32 or float16, if attention is as long as ``runs`` say?

    In int8: with float32 and keys and values that are kept in int8.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    graph = _graph(head_dim, dtype)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    shape = (3, 1, _POSITIONS, _HEADS * head_dim)
    text = np.random.default_rng(0).standard_normal(shape).astype("float32" if dtype == _ROUNDED else dtype)
    past = np.zeros((1, _HEADS, 0, head_dim), dtype)
    expected = _attend(session, text, past, runs, (_POSITIONS,))
    return all(_attend(session, text, past, runs, lengths) == expected for lengths in _LENGTHS)


def _attend(
    session: ort.InferenceSession, text: Array, empty: NDArray[Any], runs: RunLengths, lengths: Sequence[int]
) -> bytes:
    """What comes out for each position of queries, keys and values (3, 1, positions, width), behind an empty cache."""
    past = [empty, empty]
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


def _graph(head_dim: int, dtype: str) -> bytes:
    """A model of one GroupQueryAttention."""
    width, kept = _HEADS * head_dim, _TYPES[dtype]
    element = graph_writer.FLOAT if dtype == _ROUNDED else kept
    inputs = [graph_writer.value(name, element, (1, 0, width)) for name in ("query", "key", "value")]
    inputs += [graph_writer.value(name, kept, (1, _HEADS, 0, head_dim)) for name in ("past_key", "past_value")]
    inputs += [graph_writer.value("seqlens_k", graph_writer.INT32, (1,))]
    inputs += [graph_writer.value("total_sequence_length", graph_writer.INT32, ())]
    outputs = [graph_writer.value("output", element, (1, 0, width))]
    outputs += [graph_writer.value(name, kept, (1, _HEADS, 0, head_dim)) for name in _OUTPUTS[1:]]
    heads: dict[str, int | str] = {"num_heads": _HEADS, "kv_num_heads": _HEADS}
    names, weights = list(_INPUTS), []
    if dtype == _ROUNDED:
        heads |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
        names += [""] * (_FIRST_SCALES - len(names)) + list(_SCALES)
        steps = np.full(width, _STEP, np.float32).tobytes()
        weights = [graph_writer.tensor(name, element, (1, _HEADS, 1, head_dim), steps) for name in _SCALES]
    attention = graph_writer.node("GroupQueryAttention", names, _OUTPUTS, heads)
    return graph_writer.model([attention], inputs, outputs, weights)
