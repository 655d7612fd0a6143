"""The splitter on hand-made graphs: residuals that skip blocks are forwarded, and what cannot be cut is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from orchestrator.model.assemble import assemble
from orchestrator.model.errors import BrokenModel, UnsplittableGraph, UnsupportedModel
from orchestrator.model.graph import read_model, require_shared_caches, resolve
from orchestrator.model.split import SplitPlan, plan_split
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain, verify
from orchestrator.model.weights import weight_groups
from tests.support.onnx_graphs import VOCABULARY, WIDTH, DecoderMaker, save


def plan(model: ModelProto) -> SplitPlan:
    return plan_split(resolve(model, Path()))


def plain(blocks: int = 4) -> ModelProto:
    maker = DecoderMaker()
    hidden = "embedded"
    for _ in range(blocks):
        hidden = maker.block(hidden)
    return maker.head(hidden)


def skipping() -> ModelProto:
    """The output of block 0 is needed again at the end of block 2, past block 1."""
    maker = DecoderMaker()
    first = maker.block("embedded")
    side = maker.add("Tanh", [first], "side")
    # Something else reads it early on, so that it cannot be recomputed from the residual stream later.
    second = maker.block(maker.add("Mul", [first, side], "gated"))
    third = maker.block(second, extra=side)
    return maker.head(maker.block(third))


def test_one_tensor_crosses_each_boundary_of_a_plain_decoder() -> None:
    found = plan(plain())
    assert found.num_units == 6
    assert [b.tensors for b in found.boundaries] == [("embedded",), *((f"residual{n}",) for n in range(4))]
    assert {b.width for b in found.boundaries} == {WIDTH}


def test_weights_are_grouped_by_the_units_that_use_them() -> None:
    groups = weight_groups(plan(plain(2)))
    assert set(groups) == {(0,), (1,), (2,), (3,), (1, 2)}
    assert set(groups[(1, 2)]) == {"axis_of_tokens", "one", "second"}  # the lengths of rows are made of these
    assert groups[(0,)] == ("table",)
    assert groups[(3,)] == ("head",)


def test_a_residual_that_skips_a_block_travels_beside_the_hidden_state() -> None:
    found = plan(skipping())
    assert [len(b.tensors) for b in found.boundaries] == [1, 1, 2, 1, 1]
    assert [b.width for b in found.boundaries] == [WIDTH, WIDTH, 2 * WIDTH, WIDTH, WIDTH]


def test_a_forwarded_residual_gives_the_same_logits_for_every_cut(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    manifest = store.add(str(save(skipping(), tmp_path / "handmade")))
    assert (manifest.precision, manifest.family, manifest.num_layers) == ("fp32", "handmade", 4)
    assert [b.tensors for b in manifest.boundaries] == [1, 1, 2, 1, 1]
    model = store.open(manifest.name)
    for cuts in ([3], [2, 3], [3, 4], None):
        result = verify(model, cuts, ids=[1, 5, 9, 2])
        assert result.bitwise_equal, cuts
    assert model.segment(3, 5).width_in == 2 * WIDTH


def test_the_head_runs_for_the_positions_asked_for(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    model = store.open(store.add(str(save(plain(), tmp_path / "handmade"))).name)
    ids = [3, 1, 4, 1, 5]
    every = Chain(model).run(ids, range(5))
    some = Chain(model, [2]).run(ids, [4, 1])
    assert every.shape == (5, VOCABULARY)
    assert np.array_equal(some, every[[4, 1]])


def test_assembling_twice_gives_the_same_bytes() -> None:
    assert assemble(plan(plain()), 1, 4) == assemble(plan(plain()), 1, 4)


@pytest.mark.parametrize("opset", [17, 21])
def test_a_graph_converts_to_halves_where_it_has_boundaries(opset: int) -> None:
    decoder = plain()
    decoder.opset_import[0].version = opset
    found = plan(decoder)
    for start, stop in ((0, 2), (2, 4), (4, 6)):
        graph = ModelProto.FromString(assemble(found, start, stop, halves=True))
        names = [[info.name for info in infos] for infos in (graph.graph.input, graph.graph.output)]
        assert ({"hidden_halves", "hidden_scale"} <= set(names[0])) == (start > 0)
        assert ({"hidden_out", "halves_out", "squares_out"} <= set(names[1])) == (stop < 6)
        assert "hidden" not in names[0]
        reductions = [node for node in graph.graph.node if node.op_type == "ReduceSumSquare"]
        assert [len(node.input) for node in reductions] == ([2 if opset >= 18 else 1] if stop < 6 else [])
    assert assemble(found, 0, 6, halves=True) == assemble(found, 0, 6)


def test_states_that_are_halves_already_are_not_converted() -> None:
    found = plan(plain())
    halves = tuple(replace(boundary, elem_type=TensorProto.FLOAT16) for boundary in found.boundaries)
    small = replace(found, boundaries=halves)
    assert assemble(small, 2, 4, halves=True) == assemble(small, 2, 4)


def test_dummies_are_put_behind_what_goes_into_attention_and_cut_off() -> None:
    found = plan(plain())
    for start, stop in ((0, 3), (2, 4), (3, 6)):
        graph = ModelProto.FromString(assemble(found, start, stop, dummies=True)).graph
        assert {"attention_pads", "attention_end"} <= {info.name for info in graph.input}
        made = {name: node for node in graph.node for name in node.output}
        attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
        assert attentions
        for node in attentions:
            assert [made[name].op_type for name in node.input[:3]] == ["Pad"] * 3
            assert [made[name].input[1] for name in node.input[:3]] == ["attention_pads"] * 3
            (reader,) = [other for other in graph.node if node.output[0] in other.input]
            assert (reader.op_type, reader.input[2]) == ("Slice", "attention_end")
    assert assemble(found, 0, 1, dummies=True) == assemble(found, 0, 1), "no attention"


def test_dummies_where_something_is_told_of_each_position_are_refused() -> None:
    decoder = plain()
    attention = next(node for node in decoder.graph.node if node.op_type == "GroupQueryAttention")
    attention.input.extend(["", "", "attention_mask"])
    found = plan(decoder)
    assemble(found, 0, 6)
    with pytest.raises(UnsupportedModel, match=r"'attend0'.*--profile exact"):
        assemble(found, 0, 6, dummies=True)


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 1), (-1, 2), (0, 7)])
def test_segments_outside_the_model_are_an_error(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="no such segment"):
        assemble(plan(plain()), start, stop)


def test_shapes_of_tokens_and_cache_are_taken_from_what_a_segment_has() -> None:
    """Masks of some exports need the number of new and of past tokens: any segment with a block can tell."""
    maker = DecoderMaker()
    first = maker.block("embedded")
    new = maker.add("Gather", [maker.add("Shape", ["input_ids"], "ids_shape"), maker.ints("at1", 1)], "new")
    shape = maker.add("Shape", ["past_key_values.0.key"], "past_shape")
    past = maker.add("Gather", [shape, maker.ints("at2", 2)], "past")
    total = maker.add("Cast", [maker.add("Add", [new, past], "total")], "total_float", to=TensorProto.FLOAT)
    second = maker.block(first, extra=maker.add("Div", [first, total], "scaled"))
    found = plan(maker.head(second))
    for halves in (False, True):
        graph = ModelProto.FromString(assemble(found, 2, 3, halves=halves)).graph
        shapes = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Shape"}
        assert shapes == {"ids_shape": "hidden", "past_shape": "past_key_values.1.key"}
        assert "input_ids" not in {i.name for i in graph.input}
        known = {i.name for i in (*graph.input, *graph.initializer)}
        for node in graph.node:
            assert set(node.input) <= known, "nodes come after what they read"
            known |= set(node.output)


def refused(model: ModelProto) -> str:
    with pytest.raises(UnsplittableGraph) as caught:
        plan(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_integer_that_would_have_to_cross_is_named() -> None:
    maker = DecoderMaker()
    first = maker.block("embedded")
    chosen = maker.add("ArgMax", [first], "chosen_expert", axis=-1, keepdims=1)
    second = maker.block(maker.add("Mul", [first, maker.add("Cast", [chosen], "chosen_float", to=1)], "routed"))
    third = maker.block(second)
    fourth = maker.add("Mul", [third, maker.add("Cast", [chosen], "chosen_again", to=1)], "routed_again")
    message = refused(maker.head(maker.block(fourth)))
    assert "block 2" in message
    assert "'chosen_expert'" in message
    assert "float32 or float16" in message


def test_token_ids_needed_inside_a_block_are_named() -> None:
    maker = DecoderMaker()
    first = maker.block("embedded")
    again = maker.add("Gather", [maker.weight("per_layer", VOCABULARY, WIDTH), "input_ids"], "per_layer_embedding")
    second = maker.block(maker.add("Add", [first, again], "mixed_in"))
    message = refused(maker.head(second))
    assert "block 0" in message
    assert "'input_ids'" in message


def test_layers_that_share_a_cache_are_refused() -> None:
    maker = DecoderMaker()
    first = maker.block("embedded")
    second = maker.block(first)
    shared = maker.add("ReduceMean", ["past_key_values.0.key", maker.ints("shared_axes", 1, 2)], "shared", keepdims=0)
    third = maker.add("Add", [second, shared], "third")
    message = refused(maker.head(third))
    assert "'make_shared'" in message
    assert "layer 0" in message


def test_a_tensor_of_another_rank_is_named() -> None:
    maker = DecoderMaker()
    first = maker.block("embedded")
    maker.ints("front", 0)
    kept = maker.add("Tanh", [maker.add("Unsqueeze", [first, "front"], "four_dimensional")], "kept")
    second = maker.block(maker.add("Squeeze", [kept, "front"], "back"))
    third = maker.block(second, extra=maker.add("Squeeze", [kept, "front"], "back_again"))
    message = refused(maker.head(third))
    assert "block 2" in message
    assert "'kept'" in message
    assert "4 dimensions" in message


def test_a_tensor_of_unknown_shape_is_named() -> None:
    maker = DecoderMaker()
    second = maker.block(maker.add("SomeOperator", [maker.block("embedded")], "mystery"))
    message = refused(maker.head(maker.block(second)))
    assert "block 2" in message
    assert "'mystery'" in message
    assert "unknown" in message


def test_attention_that_nodes_do_not_run_is_named() -> None:
    model = plain(2)
    require_shared_caches(resolve(model, Path()))
    attention = next(node for node in model.graph.node if node.name == "attend1")
    attention.op_type = "MultiHeadAttention"
    with pytest.raises(UnsplittableGraph, match=r"'attend1' \(MultiHeadAttention\) reads past_key_values\.1\.key: "):
        require_shared_caches(resolve(model, Path()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.input.pop(0), "no input 'input_ids'"),
        (lambda g: g.input.pop(1), "no input 'attention_mask'"),
        (lambda g: g.output.pop(0), "no output 'logits'"),
        (lambda g: g.output.pop(1), "no output present.0.key"),
        (lambda g: g.input.pop(2), "no input past_key_values.0.key"),
        (lambda g: setattr(g.input[2], "name", "inputs_embeds"), "'inputs_embeds' that is not known"),
    ],
)
def test_a_graph_that_is_no_decoder_is_refused(change: object, words: str) -> None:
    model = plain(2)
    change(model.graph)  # type: ignore[operator]
    assert words in refused(model)


def test_a_file_that_is_no_onnx_model_is_broken(tmp_path: Path) -> None:
    for content in (b"", b"this is not a protocol buffer"):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(BrokenModel, match=r"model\.onnx"):
            read_model(tmp_path / "model.onnx")


def test_weights_outside_the_models_folder_are_refused(tmp_path: Path) -> None:
    model = plain(2)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BrokenModel, match="outside its folder"):
        read_model(tmp_path / "model.onnx")
