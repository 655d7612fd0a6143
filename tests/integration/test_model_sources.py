"""Checkpoints and ONNX folders in the forms they come in are read right, or one line says what is wrong with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from orchestrator.model import convert
from orchestrator.model.errors import ModelError
from orchestrator.model.source import resolve_source
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from tests.support.in_process import converting_here
from tests.support.onnx_graphs import VOCABULARY, WIDTH, DecoderMaker, save
from tests.support.tiny_models import make_checkpoint

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with converting_here():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("checkpoints") / "llama")


def saved_again(checkpoint: Path, folder: Path, dtype: str, **options: Any) -> Path:
    """The checkpoint with weights of another type, in other files."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=getattr(torch, dtype))
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(str(folder), **options)
    return folder


def save_as_pickle(folder: Path) -> None:
    """As checkpoints were before there were safetensors."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def logits(source: Path, home: Path) -> np.ndarray:
    store = ModelStore(home)
    store.add(str(source), precision="fp32")
    report = store.compared()
    assert report is not None
    assert report.logits_difference < 1e-4
    return Chain(store.open()).run(IDS, range(len(IDS)))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.05), ("bfloat16", 0.5)])
def test_half_precision_checkpoints(tmp_path: Path, checkpoint: Path, dtype: str, tolerance: float) -> None:
    """Nothing is rounded once more: what is converted is compared with these very weights in float32."""
    halves = logits(saved_again(checkpoint, tmp_path / "halves", dtype), tmp_path / "home")
    apart = np.abs(halves - logits(checkpoint, tmp_path / "other")).max()
    assert 0 < apart < tolerance


def test_shards_and_pickles(tmp_path: Path, checkpoint: Path) -> None:
    expected = logits(checkpoint, tmp_path / "home")
    shards = saved_again(checkpoint, tmp_path / "shards", "float32", max_shard_size="200KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    assert np.array_equal(logits(shards, tmp_path / "of shards"), expected)
    pickled = saved_again(checkpoint, tmp_path / "pickled", "float32")
    save_as_pickle(pickled)
    assert np.array_equal(logits(pickled, tmp_path / "of a pickle"), expected)


def failure(source: Path, home: Path) -> str:
    with pytest.raises(ModelError) as caught:
        ModelStore(home).add(str(source), precision="fp32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_that_are_missing_or_cut_off_are_named(tmp_path: Path, checkpoint: Path) -> None:
    shards = saved_again(checkpoint, tmp_path / "shards", "float32", max_shard_size="200KB")
    _, second, *others = sorted(shards.glob("*.safetensors"))
    whole = second.read_bytes()
    second.write_bytes(whole[:-10])
    assert f"{second} ends before its last tensor" in failure(shards, tmp_path / "home")
    second.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert f"{second} is a Git LFS pointer" in failure(shards, tmp_path / "home")
    second.unlink()
    assert f"lacks {second.name}, of {len(others) + 2} files" in failure(shards, tmp_path / "home")
    (shards / "model.safetensors.index.json").unlink()
    assert f"lacks {second.name}, of {len(others) + 2} files" in failure(shards, tmp_path / "home")


def test_what_is_quantised_already_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    folder = tmp_path / "quantised"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    assert "quantised already (gptq)" in failure(folder, tmp_path / "home")


def with_heads_of(checkpoint: Path, folder: Path, size: int) -> Path:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(str(checkpoint), head_dim=size)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    return folder


def test_heads_that_attention_does_not_turn_are_turned_before_it(tmp_path: Path, checkpoint: Path) -> None:
    logits(with_heads_of(checkpoint, tmp_path / "heads", 24), tmp_path / "home")


def test_heads_that_attention_does_not_take_are_refused_before_anything_is_converted(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_heads_of(checkpoint, tmp_path / "heads", 20)
    monkeypatch.setattr(convert, "run_module", None)
    said = failure(folder, tmp_path / "home")
    assert (
        "its heads have 20 values (head_dim), and ONNX Runtime's attention takes multiples of 8: take a model" in said
    )


def of_the_hub(folder: Path, ending: str = "") -> Path:
    """A decoder as exports on the hub lie in folders, its large weights beside it."""
    import onnx

    maker = DecoderMaker()
    save(maker.head(maker.block("embedded")), folder)
    model = onnx.load(str(folder / "model.onnx"))
    (folder / "model.onnx").unlink()
    (folder / "onnx").mkdir(exist_ok=True)
    name = f"decoder_model_merged{ending}.onnx"
    onnx.save_model(
        model, str(folder / "onnx" / name), save_as_external_data=True, location=f"{name}_data", size_threshold=100
    )
    return folder


def add(source: Path, home: Path) -> np.ndarray:
    store = ModelStore(home)
    there = store.add(str(source))
    store.export(there.name, home / "model.tar")  # whatever was added passes as an archive, too
    elsewhere = ModelStore(home / "elsewhere")
    assert elsewhere.add(str(home / "model.tar")).blobs == there.blobs
    return Chain(store.open()).run(IDS, range(len(IDS)))


def test_the_folder_of_an_export_on_the_hub(tmp_path: Path) -> None:
    maker = DecoderMaker()
    expected = add(save(maker.head(maker.block("embedded")), tmp_path / "plain"), tmp_path / "home")
    folder = of_the_hub(tmp_path / "export")
    assert np.array_equal(add(folder, tmp_path / "of a folder"), expected)
    only = of_the_hub(tmp_path / "only", "_q4")
    assert np.array_equal(add(only, tmp_path / "of an ending"), expected)
    (folder / "onnx" / "decoder_model_merged.onnx").rename(folder / "onnx" / "decoder_model_merged_fp16.onnx")
    of_the_hub(folder, "_q4")
    assert "has 2 decoders: name one of them, for example" in failure(folder, tmp_path / "third")
    one = folder / "onnx" / "decoder_model_merged_q4.onnx"
    assert resolve_source(str(one)).name == "export"
    assert np.array_equal(add(one, tmp_path / "of a file"), expected)
    (folder / "onnx" / "decoder_model_merged_q4.onnx_data").unlink()
    assert "decoder_model_merged_q4.onnx_data" in failure(one, tmp_path / "fourth")


def take_off_embedding(model: ModelProto, folder: Path, ending: str) -> None:
    """Put the embedding of a decoder into a graph of its own; both into ``folder``."""
    graph = model.graph
    table = next(t for t in graph.initializer if t.name == "table")
    lookup = next(n for n in graph.node if n.output[0] == "embedded")
    ids = next(i for i in graph.input if i.name == "input_ids")
    made = helper.make_tensor_value_info("embedded", TensorProto.FLOAT, ["B", "S", WIDTH])
    alone = helper.make_graph([lookup], "embedding", [ids], [made], [table])
    embedding = helper.make_model(alone, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for part in (table, ids, lookup):
        next(field for field in (graph.initializer, graph.input, graph.node) if part in field).remove(part)
    for node in graph.node:
        node.input[:] = ["inputs_embeds" if name == "embedded" else name for name in node.input]
    made.name = "inputs_embeds"
    graph.input.append(made)
    folder.mkdir()
    (folder / f"embed_tokens{ending}.onnx").write_bytes(embedding.SerializeToString())
    (folder / f"decoder_model_merged{ending}.onnx").write_bytes(model.SerializeToString())


def test_an_embedding_in_a_graph_of_its_own(tmp_path: Path) -> None:
    maker = DecoderMaker()
    model = maker.head(maker.block("embedded"))
    expected = add(save(model, tmp_path / "plain"), tmp_path / "home")
    folder = save(model, tmp_path / "apart")
    (folder / "model.onnx").unlink()
    take_off_embedding(model, folder / "onnx", "_q4")
    found = add(folder, tmp_path / "of two")
    assert found.shape == (len(IDS), VOCABULARY)
    assert np.array_equal(found, expected)
    (folder / "onnx" / "embed_tokens_q4.onnx").unlink()
    assert "takes 'inputs_embeds', which embed_tokens_q4.onnx would make" in failure(folder, tmp_path / "other")


def test_a_graph_that_nodes_could_not_run_is_not_added(tmp_path: Path) -> None:
    maker = DecoderMaker()
    model = maker.head(maker.block("embedded"))
    next(node for node in model.graph.node if node.name == "attend0").op_type = "MultiHeadAttention"
    message = failure(save(model, tmp_path / "old"), tmp_path / "home")
    assert "'attend0' (MultiHeadAttention)" in message
    assert "GroupQueryAttention only" in message
