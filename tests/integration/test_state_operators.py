"""What decision 28 builds on: ONNX Runtime's operators for state that is not a KV cache, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, ValueInfoProto, helper

POSITIONS, CHANNELS, HEADS, HEAD_DIM = 40, 96, 2, 16
Arrays = list[Any]


def session(
    op: str, inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str], **attributes: Any
) -> ort.InferenceSession:
    """A session of one operator with these inputs, of float32 but for ``at``."""

    def info(name: str, shape: Sequence[int | str] | None) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64 if name == "at" else TensorProto.FLOAT, shape)

    names = [name if inputs[name] else "" for name in inputs]
    graph = helper.make_graph(
        [helper.make_node(op, names, outputs, **attributes)],
        op,
        [info(name, shape) for name, shape in inputs.items() if shape],
        [info(name, None) for name in outputs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def convolution() -> tuple[Callable[[int, int, Any], Arrays], Any]:
    """A run over positions [start, stop) from a state, and the state to begin with."""
    shapes: dict[str, Sequence[int | str]] = {
        "x": (1, CHANNELS, "S"),
        "w": (CHANNELS, 1, 3),
        "bias": (),
        "state": (1, CHANNELS, 2),
    }
    operator = session("CausalConvWithState", shapes, ("y", "after"), domain="com.microsoft", ndim=1, activation="none")
    random = np.random.default_rng(0)
    x = random.standard_normal((1, CHANNELS, POSITIONS), np.float32)
    w = random.standard_normal((CHANNELS, 1, 3), np.float32)

    def run(start: int, stop: int, state: Any) -> Arrays:
        y, after = operator.run(None, {"x": x[:, :, start:stop], "w": w, "state": state})
        return [y.transpose(0, 2, 1), after]

    return run, np.zeros((1, CHANNELS, 2), np.float32)


def delta_rule(dummies: int = 0) -> tuple[Callable[[int, int, Any], Arrays], Any]:
    """The same of a gated delta rule, the last ``dummies`` positions with a decay and a step of zero."""
    wide: Sequence[int | str] = (1, "S", HEADS * HEAD_DIM)
    shapes: dict[str, Sequence[int | str]] = {"q": wide, "k": wide, "v": wide, "state": (1, HEADS, HEAD_DIM, HEAD_DIM)}
    shapes["decay"] = shapes["step"] = (1, "S", HEADS)
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    operator = session(
        "LinearAttention", shapes, ("y", "after"), domain="com.microsoft", update_rule="gated_delta", scale=1.0, **heads
    )
    random = np.random.default_rng(0)
    given: dict[str, Any] = {
        name: random.standard_normal((1, POSITIONS, HEADS * HEAD_DIM), np.float32) / 4 for name in "qkv"
    }
    given |= {"decay": -random.random((1, POSITIONS, HEADS), np.float32)}
    given |= {"step": random.random((1, POSITIONS, HEADS), np.float32)}
    for name in ("decay", "step"):
        given[name][:, POSITIONS - dummies :] = 0.0

    def run(start: int, stop: int, state: Any) -> Arrays:
        return list(operator.run(None, {"state": state, **{name: a[:, start:stop] for name, a in given.items()}}))

    return run, np.zeros((1, HEADS, HEAD_DIM, HEAD_DIM), np.float32)


@pytest.mark.parametrize("make", [convolution, delta_rule])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_chunks_give_the_bits_of_one_run(make: Callable[[], Any], count: int) -> None:
    run, state = make()
    whole, end = run(0, POSITIONS, state)
    parts = []
    for start in range(0, POSITIONS, count):
        part, state = run(start, min(start + count, POSITIONS), state)
        parts.append(part)
    assert np.concatenate(parts, axis=1).tobytes() == whole.tobytes()
    assert state.tobytes() == end.tobytes()
    assert end.any()


def test_dummies_without_decay_and_step_leave_a_recurrent_state() -> None:
    run, state = delta_rule(dummies=3)
    wanted = run(0, POSITIONS - 3, state)[1]
    assert run(0, POSITIONS, state)[1].tobytes() == wanted.tobytes()
    assert delta_rule()[0](0, POSITIONS, state)[1].tobytes() != wanted.tobytes()


def test_rows_are_written_into_the_bound_buffer() -> None:
    operator = session("ScatterND", {"past": ("T", "H"), "at": ("S", 1), "rows": ("S", "H")}, ("present",))
    cache, at, rows = np.zeros((64, 8), np.float32), np.array([[7], [8]]), np.ones((2, 8), np.float32)
    cache[3] = 2.0
    binding = operator.io_binding()
    for name, data in (("past", cache), ("at", at), ("rows", rows)):
        binding.bind_input(name, "cpu", 0, data.dtype, data.shape, data.ctypes.data)
    binding.bind_output("present", "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
    operator.run_with_iobinding(binding)
    assert [position for position in range(64) if cache[position].any()] == [3, 7, 8]
    assert (cache[7:9] == 1.0).all()
