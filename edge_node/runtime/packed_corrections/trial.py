"""Do corrections that are written into packed weights come out right on this processor? Tried on a small product."""

from __future__ import annotations

import functools
import platform

import numpy as np
import onnxruntime as ort

from edge_node.runtime import graph_writer
from edge_node.runtime.packed_corrections.packed_sums import Piece, Replacement, replace
from edge_node.runtime.packed_corrections.products import EIGHT_BIT_INPUTS, PANEL
from edge_node.runtime.packed_corrections.stored_blocks import in_panels
from edge_node.runtime.session import CPU, session_options

_PANELS, _BLOCKS = 4, 8
_INPUT_ROWS = (1, 2, 5, 33)
"""Kernels of their own have one row, and a few, and many."""
_ROUNDING = 0.02
"""By what share of the largest result any may be off, as inputs are rounded to eight bits; without corrections they are
off by as much as they are."""

MACHINES = ("x86_64", "AMD64")
"""On 64-bit ARM four bits have no such sums, and where eight have them it could not be tried on a real chip."""


def may_work_here() -> bool:
    """Is it worth a look at a graph?"""
    return platform.machine() in MACHINES


@functools.cache
def works_here(bits: int, block: int, threads: int) -> bool:
    """Do products of so many bits, in blocks of this length, take corrections that way?"""
    if not may_work_here():
        return False
    rows, columns = _PANELS * PANEL, _BLOCKS * block
    random = np.random.default_rng(bits * block)
    codes = random.integers(0, 1 << bits, (rows, _BLOCKS, block), np.uint8)
    scales = random.uniform(0.5, 1.0, (rows, _BLOCKS)).astype(np.float32)
    corrections = (random.standard_normal((rows, _BLOCKS)) * (1 << bits)).astype(np.float32)
    zero = 1 << bits - 1
    before = Piece(in_panels(scales * np.float32(-zero)), rows)
    after = Piece(in_panels(scales * np.float32(-zero) + corrections), rows)
    session = ort.InferenceSession(_graph(codes, scales, bits), session_options(threads), providers=[CPU])
    try:
        if replace([Replacement(lambda: iter([before]), lambda: iter([after]), 1)]):
            return False
    except OSError:  # the system does not show memory, or not for writing
        return False
    weights = (codes.astype(np.float32) - zero) * scales[..., None] + corrections[..., None]
    for count in _INPUT_ROWS:
        inputs = random.standard_normal((count, columns)).astype(np.float32)
        (found,) = session.run(None, {"inputs": inputs})
        expected = inputs @ weights.reshape(rows, columns).T
        if np.abs(found - expected).max() > _ROUNDING * np.abs(expected).max():
            return False
    return True


def _graph(codes: np.ndarray, scales: np.ndarray, bits: int) -> bytes:
    rows, blocks, block = codes.shape
    packed = codes[..., 0::2] | codes[..., 1::2] << 4 if bits == 4 else codes
    attributes = {
        "K": blocks * block, "N": rows, "bits": bits, "block_size": block, "accuracy_level": EIGHT_BIT_INPUTS,
    }  # fmt: skip
    product = graph_writer.node("MatMulNBits", ["inputs", "codes", "scales"], ["outputs"], attributes)
    weights = [
        graph_writer.tensor("codes", graph_writer.UINT8, packed.shape, packed.tobytes()),
        graph_writer.tensor("scales", graph_writer.FLOAT, scales.shape, scales.tobytes()),
    ]
    inputs = [graph_writer.value("inputs", graph_writer.FLOAT, (0, blocks * block))]
    outputs = [graph_writer.value("outputs", graph_writer.FLOAT, (0, rows))]
    return graph_writer.model([product], inputs, outputs, weights)
