"""Graphs that a node does not let ONNX Runtime see, and that each is told apart by one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_node.errors import GraphRefused, NotProtobuf, failure_code
from edge_node.runtime import graph_check, graph_tensors
from edge_node.runtime.graph_check import check_graph, check_model
from edge_node.runtime.protobuf import fields
from edge_node.runtime.segment import Segment
from edge_node.stage_spec import SegmentSpec
from schemas.codec import Dtype
from schemas.messages import BlobRef

WEIGHTS = "5" * 64
WEIGHT_BYTES = 4096


def ints(*values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64))


def constant(name: str, *values: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=ints(*values))


def weights(name: str = "w", location: str = WEIGHTS, **changes: Any) -> TensorProto:
    """Values [32, 32] float32 that are in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=changes.pop("dims", (32, 32)))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location, "offset": 0, "length": WEIGHT_BYTES} | changes).items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model(*nodes: NodeProto, initializers: tuple[TensorProto, ...] = (), **changes: Any) -> ModelProto:
    """A model of these nodes, or of a product with ``w``."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or (helper.make_node("MatMul", ["x", "w"], ["y"]),),
        "graph",
        [value("x", TensorProto.FLOAT, ["B", 32])],
        [value("y", TensorProto.FLOAT, None)],
        initializers or (weights(),),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, **changes)


def sizes(name: str) -> int | None:
    return WEIGHT_BYTES if name == WEIGHTS else None


def refusal(made: ModelProto | bytes, limit_bytes: int | None = None) -> str:
    """The line that a model is refused with."""
    data = made if isinstance(made, bytes) else made.SerializeToString()
    with pytest.raises(GraphRefused) as refused:
        check_model(data, sizes, limit_bytes)
    line = str(refused.value)
    assert line.startswith("the graph is refused: ")
    assert line.isprintable()
    assert len(line) < 300
    assert failure_code(refused.value) == "unusable"
    return line


def test_a_graph_like_those_of_segments_passes() -> None:
    check_model(model().SerializeToString(), sizes, WEIGHT_BYTES)


# --- what runs --------------------------------------------------------------------------------------------------------


def body() -> GraphProto:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["going"], ["goes"])]
    inputs = [value("at", TensorProto.INT64, []), value("going", TensorProto.BOOL, [])]
    return helper.make_graph(nodes, "body", inputs, [value("goes", TensorProto.BOOL, [])])


def deep(levels: int) -> GraphProto:
    """Graphs in graphs."""
    graph = body()
    for _ in range(levels):
        node = helper.make_node("If", ["going"], ["goes"], then_branch=graph, else_branch=body())
        graph = helper.make_graph([node], "deeper", [], [])
    return graph


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Loop", ["", "going"], [], body=body()), "a graph inside a node"),
        (helper.make_node("Loop", ["", "going"], []), "the operator Loop"),
        (helper.make_node("Identity", ["x"], ["y"], body=deep(20)), "a graph inside a node"),
        (helper.make_node("Identity", ["x"], ["y"], bodies=[body()]), "graphs inside a node"),
        (helper.make_node("Add", ["x", "x"], ["y"], domain="com.example"), "the operator Add of com.example"),
        (helper.make_node("EPContext", [], ["y"], domain="com.microsoft"), "the operator EPContext of com.microsoft"),
        (helper.make_node("If", ["c"], ["y"]), "the operator If"),
        (helper.make_node("SequenceEmpty", [], ["y"]), "the operator SequenceEmpty"),
        (helper.make_node("RandomNormal", [], ["y"], shape=[1 << 40]), "the operator RandomNormal"),
        (helper.make_node("Bad\n\x00\x1bName", [], ["y"]), r"the operator Bad\?\?\?Name"),
        (helper.make_node("Constant", [], ["y"], value_string="text", value_int=1), "more than one value"),
        (helper.make_node("Constant", [], ["y"], value=weights()), "a constant are in a file"),
        (helper.make_node("Constant", [], ["y"], value=helper.make_tensor("t", 8, [1], ["a"])), "texts as values"),
    ],
)
def test_what_no_segment_runs_is_refused(node: NodeProto, words: str) -> None:
    with pytest.raises(GraphRefused, match=words):
        check_model(model(node).SerializeToString(), sizes)


def with_functions() -> ModelProto:
    node = helper.make_node("Identity", ["a"], ["b"])
    function = helper.make_function("", "MatMul", ["a", "c"], ["b"], [node], [helper.make_opsetid("", 21)])
    return model(functions=[function])


def with_training() -> ModelProto:
    made = model()
    made.training_info.add()
    return made


def with_sparse_weights() -> ModelProto:
    made = model()
    made.graph.sparse_initializer.add()
    return made


def with_sequence() -> ModelProto:
    made = model()
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    made.graph.input.append(helper.make_value_info("s", helper.make_sequence_type_proto(element)))
    return made


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_functions, "functions of its own"),
        (with_training, "training"),
        (with_sparse_weights, "sparse tensors"),
        (with_sequence, "sequences"),
    ],
)
def test_what_no_segment_has_is_refused(make: Callable[[], ModelProto], words: str) -> None:
    assert words in refusal(make())


def test_an_attribute_has_one_value() -> None:
    node = constant("n", 600_000_000)
    node.attribute[0].ints.append(1)
    assert "two kinds of values" in refusal(model(node))
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[0, 1])
    node.attribute.add().CopyFrom(node.attribute[0])
    assert "attribute 'pads' twice" in refusal(model(node))


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_check, "MAX_NODES", 3)
    assert "it has 4 nodes" in refusal(model(*[helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(4)]))


# --- where values are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd", f"../{WEIGHTS}", f"/{WEIGHTS}", f"folder/{WEIGHTS}", f"folder\\{WEIGHTS}", "", ".", "..",
        WEIGHTS[:-1], f"{WEIGHTS}\n", f"{WEIGHTS}\0", WEIGHTS.replace("5", "F"), f"{WEIGHTS}.part",
        "*/_ORT_MEM_ADDR_/*",
    ],
)  # fmt: skip
def test_weights_are_in_blobs_only(location: str) -> None:
    assert "which is no blob" in refusal(model(initializers=(weights(location=location),)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"location": "6" * 64}, "not here"),
        ({"offset": 1}, "ends at byte 4097 of a blob of 4096 bytes"),
        ({"offset": 1 << 59}, "ends at byte"),
        ({"offset": -1}, "its shape is for 4096"),
        ({"offset": " 1"}, "its shape is for 4096"),
        ({"length": 4095}, "has 4095 bytes"),
        ({"dims": (1 << 20, 1 << 20)}, "its shape is for 4398046511104"),
        ({"dims": (-32, -32)}, "a dimension below 0"),
        ({"dims": (1,) * 17}, "more than 16 dimensions"),
        ({"checksum": "00"}, "'checksum' twice, or should not have it"),
    ],
)
def test_weights_are_inside_their_blob(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(model(initializers=(weights(**changes),)))


def twice(name: str) -> TensorProto:
    tensor = weights()
    tensor.external_data.add(key=name, value="/etc/passwd")
    return tensor


def in_two_places() -> TensorProto:
    tensor = weights()
    tensor.raw_data = bytes(WEIGHT_BYTES)
    return tensor


def unmarked() -> TensorProto:
    tensor = weights()
    tensor.data_location = TensorProto.DEFAULT
    return tensor


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (twice("location"), "'location' twice"),
        (in_two_places(), "in more than one place"),
        (unmarked(), "in more than one place"),
    ],
)
def test_a_place_has_one_meaning(tensor: TensorProto, words: str) -> None:
    assert words in refusal(model(initializers=(tensor,)))


def inline(data_type: int, dims: tuple[int, ...], **values: Any) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=dims, **values)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (inline(1, (600_000_000,), raw_data=bytes(4)), "has 4 bytes, its shape is for 2400000000"),
        (inline(1, (2,)), "has 0 bytes"),
        (inline(7, (2,), int64_data=[1, 2, 3]), "has 3 values, its shape is for 2"),
        (inline(1, (3,), float_data=[1.0, 2.0]), "has 2 values, its shape is for 3"),
        (inline(1, (2,), int64_data=[1, 2]), "has 2 values"),
        (inline(1, (1,), float_data=[1.0], raw_data=bytes(4)), "more than one place"),
        (inline(0, ()), "elements of type 0"),
        (inline(15, (), raw_data=bytes(16)), "elements of type 15"),
    ],
)
def test_tensors_are_as_large_as_they_say(tensor: TensorProto, words: str) -> None:
    assert words in refusal(model(initializers=(tensor,)))


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "uint8", "int32", "int64", "bool", "float64", "uint64"]
)
def test_tensors_that_do_not_lie_pass(dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    raw, element = numpy_helper.from_array(values, "w"), helper.np_dtype_to_tensor_dtype(values.dtype)
    one_by_one = helper.make_tensor("w", element, (2, 3), values.ravel())
    for tensor in (raw, one_by_one):
        check_model(model(initializers=(tensor,)).SerializeToString(), sizes)


def test_every_type_of_element_is_as_wide_as_onnx_says() -> None:
    for elem_type, bits in graph_tensors._BITS.items():
        if bits >= 8 and elem_type < 17:
            assert helper.tensor_dtype_to_np_dtype(elem_type).itemsize * 8 == bits or elem_type == 16


def test_weights_have_to_fit_into_what_is_planned_unless_rows_are_looked_up() -> None:
    assert "are 4096 bytes, planned are 4095" in refusal(model(), 4095)
    look_up = model(constant("rows", 1), helper.make_node("Gather", ["w", "rows"], ["y"]))
    check_model(look_up.SerializeToString(), sizes, 100)
    both = model(helper.make_node("Gather", ["w", "rows"], ["y"]), helper.make_node("Relu", ["w"], ["z"]))
    assert "planned are 100" in refusal(both, 100)


def test_a_link_is_followed_only_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(bytes(WEIGHT_BYTES))
    (folder / "graph").write_bytes(model().SerializeToString())
    (folder / WEIGHTS).symlink_to(tmp_path / "outside")
    with pytest.raises(GraphRefused, match="not here"):
        check_graph(folder / "graph")
    (folder / "kept").write_bytes(bytes(WEIGHT_BYTES))
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("kept")
    check_graph(folder / "graph")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    with pytest.raises(GraphRefused, match="not here"):
        check_graph(folder / "graph")


# --- sizes ------------------------------------------------------------------------------------------------------------


def sized(operator: str, *sizes: tuple[int, ...]) -> ModelProto:
    names = [f"size{index}" for index in range(len(sizes))]
    first = [] if operator in ("ConstantOfShape", "Range") else ["x"]
    made = [constant(name, *values) for name, values in zip(names, sizes, strict=True)]
    return model(*made, helper.make_node(operator, [*first, *names], ["y"]))


@pytest.mark.parametrize(
    "made",
    [
        sized("ConstantOfShape", (600_000_000,)),
        sized("ConstantOfShape", (1 << 20, 1 << 20)),
        sized("Expand", (600_000_000, 1)),
        sized("Tile", (600_000_000, 1)),
        sized("Pad", (0, 0, 0, 600_000_000)),
        sized("Range", (0,), (600_000_000,), (1,)),
        sized("Range", (0,), (1,), (0,)),
        model(helper.make_node("Constant", [], ["n"], value_ints=[600_000_000]), helper.make_node(
            "ConstantOfShape", ["n"], ["y"])),
        model(helper.make_node("Constant", [], ["n"], value_int=600_000_000), helper.make_node(
            "ConstantOfShape", ["n"], ["y"])),
        model(helper.make_node("Conv", ["x", "w"], ["y"], pads=[0, 600_000_000])),
        model(helper.make_node("ConstantOfShape", ["w"], ["y"]), initializers=(
            numpy_helper.from_array(np.array([600_000_000], np.int64), "w"),)),
    ],
)  # fmt: skip
def test_nothing_huge_is_made_of_constants(made: ModelProto) -> None:
    assert "values of nothing" in refusal(made)


def test_a_range_of_floats_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def ranged(limit: float, step: float = 0.5) -> ModelProto:
        values = {"start": 0.0, "limit": limit, "step": step}
        made = [helper.make_node("Constant", [], [name], value_float=value) for name, value in values.items()]
        return model(*made, helper.make_node("Range", [*values], ["y"]))

    check_model(ranged(1e6).SerializeToString(), sizes)
    for made in (ranged(1e9), ranged(float("inf")), ranged(float("nan")), ranged(1, 0)):
        assert "values of nothing" in refusal(made)


def test_a_size_is_a_few_numbers_in_the_graph() -> None:
    many = numpy_helper.from_array(np.ones(65, np.int64), "n")
    for tensor in (many, weights("n")):
        assert "no few numbers" in refusal(
            model(helper.make_node("ConstantOfShape", ["n"], ["y"]), initializers=(tensor,))
        )


# --- what is no model -------------------------------------------------------------------------------------------------


def test_what_is_cut_off_is_refused() -> None:
    whole = model().SerializeToString()
    for length in range(len(whole)):
        with contextlib.suppress(GraphRefused):  # where a field ends what is left may be a model of its own
            check_model(whole[:length], sizes)
    assert "no model in ONNX's format" in refusal(whole[:-1])
    assert "it has no nodes" in refusal(b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a number that does not end"),
        (b"\x3a\x80\x80\x80\x80\x08", "a field ends at byte"),
        (b"\x3b\x3c", "a field of kind 3"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "a number that does not end"),
        (b"\x3a\x00\x3a\x00", "field 7 of a model is there twice"),
        (b"\x00\x00", "a field 0 in a model"),
        (b"ORTM" * 4, ""),
        (b"#!/bin/sh\n", ""),
    ],
)
def test_what_is_no_model_is_refused(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_a_file_that_is_too_long_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_check, "MAX_GRAPH_BYTES", 10)
    (tmp_path / "graph").write_bytes(bytes(11))
    with pytest.raises(GraphRefused, match="more than 10 bytes"):
        check_graph(tmp_path / "graph")
    with pytest.raises(GraphRefused, match="can't be read"):
        check_graph(tmp_path / "none")


@given(st.binary(max_size=400))
def test_the_reader_raises_nothing_but_its_own_error(data: bytes) -> None:
    with contextlib.suppress(NotProtobuf):
        assert all(key >= 0 for key, _, _ in fields(data, 0, len(data)))


WHOLE = model(
    constant("rows", 1, 2), helper.make_node("Range", ["rows", "rows", "rows"], ["r"]),
    helper.make_node("Pad", ["x", "rows"], ["p"]), helper.make_node("Gather", ["w", "rows"], ["y"]),
    initializers=(weights(), inline(7, (2,), int64_data=[1, 2]), inline(1, (2,), float_data=[1, 2])),
).SerializeToString()  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_graph_with_other_bytes_passes_or_is_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    with contextlib.suppress(GraphRefused):
        check_model(bytes(data), sizes, 10_000)


@given(st.binary(max_size=60))
def test_bytes_in_place_of_a_tensor_pass_or_are_refused(data: bytes) -> None:
    length = len(data)
    graph = b"\x2a" + bytes([length]) + data
    with contextlib.suppress(GraphRefused):
        check_model(b"\x3a" + bytes([len(graph)]) + graph, sizes)


# --- the node's own way -----------------------------------------------------------------------------------------------


def spec() -> SegmentSpec:
    return SegmentSpec(
        graph=BlobRef(sha256="0" * 64, size_bytes=0), blobs=(), kv_layers=(), width_in=32, width_out=32, vocab_size=10,
        context_tokens=16, slots=1, chunk_tokens=4, wire=Dtype.FP32, is_first=False, is_last=False,
    )  # fmt: skip


def test_onnx_runtime_does_not_see_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *args, **_: seen.append(args))
    graphs = [
        model(initializers=(weights(location="/etc/passwd", dims=(1,), length=4),)),
        sized("ConstantOfShape", (600_000_000,)),
        model(helper.make_node("Loop", ["", "going"], [], body=body())),
        with_functions(),
    ]
    for made in graphs:
        (tmp_path / "graph").write_bytes(made.SerializeToString())
        with pytest.raises(GraphRefused):
            Segment(spec(), tmp_path / "graph", threads=1)
    assert seen == []


def test_onnx_reads_the_same_graph() -> None:
    """The graphs above are refused for what they have, not because they can't be read."""
    for made in (with_functions(), sized("Expand", (600_000_000, 1)), with_training(), model()):
        assert onnx.load_from_string(made.SerializeToString()) == made
