"""Hidden states on the wire: lengths, round trips and their error bounds, and what is not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.errors import NotFinite
from edge_node.wire.activations import decode_activation, encode_activation, quiet
from orchestrator.model.wire import as_received
from schemas.codec import INT8_BLOCK, Dtype, activation_payload_bytes
from tests.support.strategies import examples

DTYPES = (Dtype.FP32, Dtype.FP16, Dtype.INT8)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 200))
SCALES = st.sampled_from([1e-30, 1e-9, 1e-3, 1.0, 300.0, 9e4, 1e7, 1e30])
Floats = NDArray[np.float32]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def hidden(shape: tuple[int, int], scale: float, seed: int) -> Floats:
    """Normal values with one outlier, as hidden states have."""
    generator = np.random.default_rng(seed)
    values = (generator.standard_normal(shape) * scale).astype(np.float32)
    values[:, generator.integers(shape[1])] *= 50
    return values


def round_trip(values: NDArray[np.float32] | NDArray[np.float16], dtype: Dtype) -> Floats:
    payload = encode_activation(values, dtype)
    assert len(payload) == activation_payload_bytes(dtype, *values.shape)
    out = np.full(values.shape, np.nan, np.float32)
    decode_activation(memoryview(payload), dtype, out)
    return out


@given(SHAPES, SCALES, st.integers(0, 10**6))
@examples(60)
def test_fp32_is_exact(shape: tuple[int, int], scale: float, seed: int) -> None:
    values = hidden(shape, scale, seed)
    assert (round_trip(values, Dtype.FP32) == values).all()


@given(SHAPES, SCALES, st.integers(0, 10**6))
@examples(150)
def test_fp16_keeps_eleven_bits_at_any_magnitude(shape: tuple[int, int], scale: float, seed: int) -> None:
    """Relative error 2**-11; that of subnormal halves is absolute, 2**-25, or with a scale 2**-39 of the largest."""
    values = hidden(shape, scale, seed)
    peaks = np.abs(values).max(axis=1, keepdims=True)
    subnormal = np.where((peaks >= 1) & (peaks < 2**15), 2.0**-25, peaks * 2.0**-39)
    bound = np.maximum(np.abs(values) * 2.0**-11, subnormal)
    assert (np.abs(round_trip(values, Dtype.FP16) - values) <= bound).all()


def test_fp16_takes_values_beyond_its_range() -> None:
    values = np.array([[3e38, 1e38, 0.0], [70_000.0, -65_536.0, 1.0], [1e-25, -3e-26, 0.0]], np.float32)
    out = round_trip(values, Dtype.FP16)
    assert np.abs(out / np.where(values == 0, 1, values) - (values != 0)).max() < 2.0**-10


@pytest.mark.parametrize("peak", [0.5, 0.999999, 1.0, 1.5, 2.0**15 - 0.01, 2.0**15, 65_504.0, 2.0**31])
@pytest.mark.parametrize("width", [1, 2, 576])
def test_fp16_of_one_position_is_that_of_a_chunk(peak: float, width: int) -> None:
    """The short way for one position gives the bytes of the long one."""
    for values in (np.full((1, width), peak, np.float32), np.eye(1, width, dtype=np.float32) * peak):
        payload = encode_activation(values, Dtype.FP16)
        # The zeros take the chunk to the way for positions with a scale.
        for other in (values, np.zeros_like(values)):
            both = encode_activation(np.concatenate([values, other]), Dtype.FP16)
            assert payload == both[: 2 * width] + both[-2:-1]
            out = np.zeros((2, width), np.float32)
            decode_activation(both, Dtype.FP16, out)
            assert (out[:1] == round_trip(values, Dtype.FP16)).all()
        assert (round_trip(values, Dtype.FP16) == values.astype(np.float16)).all() == (peak < 65_505)


def test_fp16_scale_is_a_power_of_two_and_changes_no_half() -> None:
    """Values that are halves already come back to the bit, whatever the scale of their position."""
    halves = np.random.default_rng(0).standard_normal((4, 96)).astype(np.float16)
    assert (round_trip(halves, Dtype.FP16) == halves.astype(np.float32)).all()


@given(SHAPES, st.sampled_from([1e-3, 1.0, 300.0, 4e4]), st.integers(0, 10**6))
@examples(150)
def test_int8_error_is_half_a_step_of_its_transformed_block(shape: tuple[int, int], scale: float, seed: int) -> None:
    """Of the length of a block's values: the transform keeps lengths, so half a step for each of its values."""
    values = np.clip(hidden(shape, scale, seed), -8e5, 8e5)  # more may be refused: its scale is no half
    out = round_trip(values, Dtype.INT8)
    for start in range(0, shape[1], INT8_BLOCK):
        block = values[:, start : start + INT8_BLOCK].astype(np.float64)
        length = np.linalg.norm(block, axis=1)  # no value of the transform is larger
        step = np.maximum(length / 127, 2.0**-24) * (1 + 2.0**-10) + 2.0**-24  # the scale itself is a half
        error = np.linalg.norm(out[:, start : start + INT8_BLOCK] - block, axis=1)
        # A run of odd bits is transformed to 1.41 times its length.
        assert (error <= 0.51 * math.sqrt(2 * block.shape[1]) * step + 1e-6 * length).all()


def test_int8_keeps_the_neighbours_of_a_large_value() -> None:
    """As in position 0 of many models, where one channel has thousands of times the others' size."""
    values = np.random.default_rng(2).standard_normal((50, 576)).astype(np.float32)
    values[:, 507] = 1000.0
    error = round_trip(values, Dtype.INT8) - values
    largest_step = 1000 / 127
    assert np.abs(error[:, 448:512]).mean() < largest_step / 8
    assert np.abs(np.delete(error, np.s_[448:512], axis=1)).max() < 0.05


@pytest.mark.parametrize("width", [1, 33, 48, 64, 96, 130, 576])
def test_what_the_orchestrator_expects_of_int8_is_what_arrives(width: int) -> None:
    values = np.rint(hidden((20, width), 3000.0, 5))  # whole numbers, whose sums are exact in any order
    values[3, 0] = 50_000
    assert np.allclose(as_received(values, "int8"), round_trip(values, Dtype.INT8), rtol=1e-6, atol=1e-2)


def test_int8_blocks_do_not_disturb_each_other() -> None:
    values = np.full((1, 3 * INT8_BLOCK), 0.01, np.float32)
    values[0, INT8_BLOCK] = 10_000.0
    out = round_trip(values, Dtype.INT8)
    assert np.abs(out[0, :INT8_BLOCK] - 0.01).max() < 1e-4
    assert np.abs(out[0, 2 * INT8_BLOCK :] - 0.01).max() < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros(dtype: Dtype) -> None:
    assert (round_trip(np.zeros((3, 70), np.float32), dtype) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_models(dtype: Dtype) -> None:
    values = np.random.default_rng(1).standard_normal((2, 130)).astype(np.float16)
    assert np.abs(round_trip(values, dtype) - values).max() < 0.02
    out = np.zeros(values.shape, np.float16)
    decode_activation(encode_activation(values, dtype), dtype, out)
    assert np.abs(out - values).max() < 0.02


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_are_independent(dtype: Dtype) -> None:
    """A chunk gives for each position what the position alone gives, so chunking changes nothing."""
    values = np.concatenate([hidden((1, 100), scale, 3) for scale in (1e-4, 1.0, 500.0)])
    alone = np.concatenate([round_trip(values[index : index + 1], dtype) for index in range(3)])
    assert (round_trip(values, dtype) == alone).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_what_is_not_finite_is_not_sent(dtype: Dtype, bad: float, element: type) -> None:
    values = np.ones((3, 65), element)
    values[1, 64] = bad
    with pytest.raises(NotFinite):
        encode_activation(values, dtype)


def test_what_int8_cannot_scale_is_not_sent() -> None:
    with pytest.raises(NotFinite, match="fp16"):
        encode_activation(np.full((1, 64), 1e7, np.float32), Dtype.INT8)


@pytest.mark.parametrize(
    ("dtype", "payload"),
    [
        (Dtype.FP32, np.array([1.0, np.nan], np.float32).tobytes()),
        (Dtype.FP32, np.array([1.0, np.inf], np.float32).tobytes()),
        (Dtype.FP16, np.array([1.0, np.nan], np.float16).tobytes() + b"\0"),
        (Dtype.FP16, np.array([1.0, 60_000.0], np.float16).tobytes() + b"\x7f"),
        (Dtype.INT8, b"\1\2" + np.array([np.inf], np.float16).tobytes()),
        (Dtype.INT8, b"\0\0" + np.array([np.nan], np.float16).tobytes()),
    ],
)
def test_what_arrives_not_finite_is_refused(dtype: Dtype, payload: bytes) -> None:
    assert len(payload) == activation_payload_bytes(dtype, 1, 2)
    with pytest.raises(NotFinite):
        decode_activation(payload, dtype, np.zeros((1, 2), np.float32))


def test_what_a_half_precision_model_cannot_hold_is_refused() -> None:
    payload = encode_activation(np.array([[70_000.0, 1.0]], np.float32), Dtype.FP32)
    with pytest.raises(NotFinite):
        decode_activation(payload, Dtype.FP32, np.zeros((1, 2), np.float16))


@given(st.binary(min_size=3 * 70 * 4, max_size=3 * 70 * 4), st.sampled_from(DTYPES))
@examples(100)
def test_any_bytes_are_values_or_refused(data: bytes, dtype: Dtype) -> None:
    out = np.zeros((3, 70), np.float32)
    try:
        decode_activation(data[: activation_payload_bytes(dtype, 3, 70)], dtype, out)
    except NotFinite:
        return
    assert np.isfinite(out).all()
