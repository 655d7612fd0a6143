"""Hidden states on the wire: fp32, fp16 with a power-of-two scale per position, transformed int8 with a scale per 64.

All layouts are those of ``schemas.codec``. A scale that is a power of two changes no mantissa bit, keeps small
values out of the subnormals and lets states beyond 65,504 (Gemma 3) travel as halves. Positions whose largest value
is in [1, 2**15) need none: what is subnormal beside it is lost in float32 sums too.

Halves without a scale are what nearly every step sends, and after a run of ONNX Runtime every line of code and every
NumPy function called is a cache miss. So they have a way of their own with as few of them as will do: a sum of squares
tells that all is finite and that no scale is needed. It may overflow, and what arrives may be garbage: both are found
and refused, so callers let NumPy ignore them (``quiet``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.errors import BadInput, NotFinite
from edge_node.wire.hadamard import hadamard
from schemas.codec import INT8_BLOCK, Dtype
from schemas.hadamard import hadamard_run

_HALF_EXPONENT = 15
"""Scaled so that the largest value of a position lies in [2**14, 2**15), below the largest half, 65,504."""
SQUARES_END = 2.0**30
"""A sum of squares below it has no value of 2**15 or more."""
LEAST_MEAN_SQUARE = 2.0
"""A mean of squares of it has a value of 1 or more, whatever the sum was rounded to."""
_INT8_MAX = 127.0
_SMALLEST_HALF = 2.0**-24

_NOT_FINITE = "a hidden state that it computed is NaN or infinite"

Array = NDArray[Any]
_POWERS = np.ldexp(np.float32(1), np.arange(-128, 128))
"""2 ** e for every int8 e."""
_FLOAT32 = np.dtype(np.float32)


def quiet() -> np.errstate:
    """The context to encode and decode in: NumPy gives no warnings of values that are refused as not finite."""
    return np.errstate(over="ignore", invalid="ignore")


def encode_activation(hidden: Array, dtype: Dtype) -> bytes:
    """The payload of an activation frame.

    Args:
        hidden: (count, width), float32 or float16, C-contiguous.
        dtype: FP32, FP16 or INT8.

    Raises:
        NotFinite: a value is NaN or infinite.
    """
    if dtype is Dtype.FP16 and hidden.dtype is _FLOAT32:
        if len(hidden) == 1:
            position = hidden[0]
            least = most = float(position.dot(position))
        else:
            squares = np.einsum("ij,ij->i", hidden, hidden)
            least, most = float(squares.min()), float(squares.max())
        if LEAST_MEAN_SQUARE * hidden.shape[1] <= least and most < SQUARES_END:  # surely no scale is needed
            return bytes(hidden.astype(np.float16).tobytes() + bytes(len(hidden)))
    return _encode(hidden, dtype)


def _encode(hidden: Array, dtype: Dtype) -> bytes:
    peaks = np.abs(hidden).max(axis=1).astype(np.float32)
    if not np.isfinite(peaks).all():
        raise NotFinite(_NOT_FINITE)
    if dtype is Dtype.FP32:
        return hidden.astype(np.float32, copy=False).tobytes()
    if dtype is Dtype.FP16:
        exponents = np.clip(np.frexp(peaks)[1] - _HALF_EXPONENT, -100, 113)
        exponents = np.where((peaks >= 1) & (exponents <= 0), 0, exponents).astype(np.int8)
        halves = (hidden * _powers_of_two(-exponents)[:, None]).astype(np.float16)
        return bytes(halves.tobytes() + exponents.tobytes())
    return _encode_int8(hidden)


def _powers_of_two(exponents: Array) -> Array:
    """2 ** exponents as float32, exact; a product with them changes no mantissa bit."""
    return _POWERS[exponents.astype(np.intp) + 128]


def _encode_int8(hidden: Array) -> bytes:
    count, width = hidden.shape
    run, before, _ = hadamard_run(width)
    blocks = -(-width // INT8_BLOCK)
    padded = np.zeros((count, blocks * INT8_BLOCK), np.float32)
    padded[:, :width] = hadamard(hidden.astype(np.float32, copy=False), run) * np.float32(before)
    blocked = padded.reshape(count, blocks, INT8_BLOCK)
    scales = np.maximum(np.abs(blocked).max(axis=2) / _INT8_MAX, _SMALLEST_HALF).astype(np.float16)
    if not np.isfinite(scales).all():
        raise NotFinite("a hidden state is too large for int8 on the wire: use --wire fp16")
    quantised = np.rint(blocked / scales[:, :, None].astype(np.float32))
    values = np.clip(quantised, -_INT8_MAX, _INT8_MAX).astype(np.int8).reshape(count, -1)[:, :width]
    return bytes(values.tobytes() + scales.tobytes())


def decode_activation(payload: bytes | bytearray | memoryview, dtype: Dtype, out: Array) -> None:
    """Write the hidden states of a payload, its length checked by the codec, to ``out`` (count, width), C-contiguous.

    Raises:
        BadInput: a value is NaN or infinite.
    """
    if dtype is Dtype.FP16 and payload[-1] == 0 and (len(out) == 1 or not any(payload[2 * out.size :])):
        values = out[0] if len(out) == 1 else out.reshape(-1)
        values[:] = np.frombuffer(payload, np.float16, values.size)
        if float(values.dot(values)) < math.inf:
            return
    _decode(payload, dtype, out)


def _decode(payload: bytes | bytearray | memoryview, dtype: Dtype, out: Array) -> None:
    count, width = out.shape
    if dtype is Dtype.FP32:
        out[...] = np.frombuffer(payload, np.float32).reshape(count, width)
    elif dtype is Dtype.FP16:
        split = 2 * count * width
        halves = np.frombuffer(payload, np.float16, count=count * width).reshape(count, width)
        exponents = np.frombuffer(payload, np.int8, offset=split)
        np.multiply(halves, _powers_of_two(exponents)[:, None], out=out, dtype=np.float32, casting="unsafe")
    else:
        run, _, after = hadamard_run(width)
        blocks = -(-width // INT8_BLOCK)
        values = np.frombuffer(payload, np.int8, count=count * width).reshape(count, width)
        scales = np.frombuffer(payload, np.float16, offset=count * width).reshape(count, blocks)
        steps = np.repeat(scales.astype(np.float32), INT8_BLOCK, axis=1)[:, :width]
        out[...] = hadamard(values * steps, run) * np.float32(after)
    if not np.isfinite(out).all():
        raise BadInput("a hidden state that arrived is NaN or infinite")


def check_finite(payload: bytes | bytearray | memoryview, dtype: Dtype, count: int, width: int) -> None:
    """Look whether the hidden states of a payload are finite, for a result that is not.

    Raises:
        BadInput: they are not.
    """
    decode_activation(payload, dtype, np.empty((count, width), np.float32))
