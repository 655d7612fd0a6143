"""What is added computes what its source computes; what was converted to another model is refused, with the reason."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from orchestrator import cli
from orchestrator.model import convert, intake, parity
from orchestrator.model.errors import BrokenModel, ModelError, NoSuchModel, WrongConversion
from orchestrator.model.parity_report import CHECK_FILE
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from tests.support.in_process import converting_here
from tests.support.onnx_graphs import DecoderMaker, save
from tests.support.tiny_models import MORE_FAMILIES, TRAINED_TOKENS, VOCABULARY, make_checkpoint
from tests.support.wrong_conversions import WRONG, building_wrongly, exchange

TEXT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(TRAINED_TOKENS + 26)]
WIDE = ("mistral-wide",)
ENDING = ("llama-longrope", "phi3-longrope")
"""Their models end where they were trained to."""


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with converting_here():
        yield


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda family: folder / family if (folder / family).exists() else make_checkpoint(family, folder / family)


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_kinds_of_rope_and_architectures_are_converted_right(
    tmp_path: Path, checkpoints: Callable[[str], Path], family: str
) -> None:
    import torch
    import transformers

    folder = checkpoints(family)
    store = ModelStore(tmp_path / "home")
    manifest = store.add(str(folder), precision="fp32")
    ids = TEXT[: manifest.max_context]
    assert manifest.max_context == (TRAINED_TOKENS if family in ENDING else 1024 if family in WIDE else 256)
    with torch.no_grad():
        original = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        expected = original(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(Chain(store.open()).run(ids, range(len(ids))) - expected).max() < 1e-3
    report = store.compared()
    assert report is not None
    assert report.problems() == []
    assert report.structure_difference < 1e-5
    assert report.rope_difference < 1e-3
    assert report.rope_positions == manifest.max_context


def test_a_text_that_would_take_too_long_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: Callable[[str], Path]
) -> None:
    monkeypatch.setattr(parity, "MOST_TOKENS", TRAINED_TOKENS + 7)
    monkeypatch.setattr(parity, "MOST_BLOCKS", 2)
    store = ModelStore(tmp_path / "home")
    for family, words in (("llama-yarn", ["a text past the 64 positions"]), ("smollm3", ["after the first 2"])):
        store.add(str(checkpoints(family)), family, precision="fp32")
        report = store.compared(family)
        assert report is not None
        assert [word in found for word, found in zip(words, report.not_compared, strict=True)] == [True]
        assert report.structure_tokens == 32


@pytest.mark.parametrize(("defect", "precision"), [*((defect, "int4") for defect in WRONG), ("softmax", "fp32")])
def test_another_model_than_the_source_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: Callable[[str], Path],
    defect: str,
    precision: str,
) -> None:
    family, change, words = WRONG[defect]
    monkeypatch.setattr(convert, "run_module", building_wrongly(change))
    store = ModelStore(tmp_path / "home")
    with pytest.raises(WrongConversion, match=words) as caught:
        store.add(str(checkpoints(family)), precision=precision)
    assert "\n" not in str(caught.value)
    assert store.names() == ()


def rewrite_weights(checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint with other weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil(weights: dict[str, Any]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")


def cut_off(weights: dict[str, Any]) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    weights[name] = weights[name][:-1].contiguous()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("model.layers.1.mlp.up_proj.weight"), r"lacks weights .*: model\.layers\.1\.mlp\.up_proj"),
        (lambda w: w.update({"model.layers.0.extra.weight": w["model.norm.weight"].clone()}), "no use for: .*extra"),
        (cut_off, "another shape .*: model.layers.2.mlp.up_proj.weight"),
        (spoil, "NaN or infinity.* model.layers.1.mlp.up_proj.weight|'model.layers.1.mlp.up_proj.*' has NaN"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_named(
    tmp_path: Path, checkpoints: Callable[[str], Path], change: Callable[[dict[str, Any]], None], words: str
) -> None:
    folder = rewrite_weights(checkpoints("llama"), tmp_path / "other", change)
    with pytest.raises(ModelError, match=words) as caught:
        ModelStore(tmp_path / "home").add(str(folder), precision="int4")
    assert "\n" not in str(caught.value)


def decoder(folder: Path, weight: float = 1.0) -> Path:
    """An ONNX decoder of three blocks with a weight to choose."""
    maker = DecoderMaker()
    hidden = "embedded"
    for _ in range(3):
        hidden = maker.block(hidden)
    maker.weights[-1] = numpy_helper.from_array(np.full((8, 8), weight, np.float32), maker.weights[-1].name)
    return save(maker.head(hidden), folder)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, weight: float) -> None:
    with pytest.raises(BrokenModel, match="weight 'w2value' has NaN or infinity"):
        ModelStore(tmp_path / "home").add(str(decoder(tmp_path / "decoder", weight)))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_to_be_quantised_are_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: Callable[[str], Path], value: float
) -> None:
    def spoil(model: ModelProto) -> None:
        weight = next(t for t in model.graph.initializer if "layers.2.mlp.down_proj" in t.name)
        values = numpy_helper.to_array(weight).copy()
        values.flat[7] = value
        weight.raw_data = values.tobytes()

    monkeypatch.setattr(convert, "run_module", building_wrongly(spoil))
    with pytest.raises(BrokenModel, match=r"layers\.2\.mlp\.down_proj.*NaN or infinity"):
        ModelStore(tmp_path / "home").add(str(checkpoints("llama")), precision="int4")


def test_a_graph_that_is_taken_apart_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(model: ModelProto) -> None:
        exchange(model, "w1query", "w2query")

    monkeypatch.setattr(intake, "settle_table_choice", settle)
    with pytest.raises(WrongConversion, match="its logits are off by"):
        ModelStore(tmp_path / "home").add(str(decoder(tmp_path / "decoder")))


def test_what_was_compared_is_kept_and_can_be_repeated(tmp_path: Path, checkpoints: Callable[[str], Path]) -> None:
    store = ModelStore(tmp_path / "home")
    folder = tmp_path / "gemma3"
    shutil.copytree(checkpoints("gemma3"), folder)
    store.add(str(folder), precision="int8")
    first = store.compared()
    assert first is not None
    assert (first.rows, first.structure_blocks, first.vectors) == (32, 3, 24)
    assert first.not_compared == ()
    assert 1e-3 < first.unit_difference < 0.05
    assert first.structure_difference < 1e-5
    assert 0.5 < first.argmax_agreement <= 1
    (store.open().folder / CHECK_FILE).unlink()
    assert store.compared() is None
    assert store.compare() == first == store.compared()
    assert store.add(str(folder), precision="int8", profile="exact").name == "gemma3-int8-exact"
    assert store.compared("gemma3-int8-exact") == first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(NoSuchModel, match="is not what it was when gemma3-int8 was made"):
        store.compare()
    shutil.rmtree(folder)
    with pytest.raises(NoSuchModel, match="no such file or folder"):
        store.compare()


def test_verify_says_what_it_compared_with_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, home = decoder(tmp_path / "decoder"), ["--home", str(tmp_path / "home")]
    assert cli.run([*home, "model", "add", str(folder)]) == 0
    capsys.readouterr()
    assert cli.run([*home, "model", "verify"]) == 0
    files, split, halves, bytes_, kept, source, quality, wires, left_out = capsys.readouterr().out.splitlines()
    assert files.startswith("files: all ")
    assert "equal to the bit" in split
    assert halves.startswith("fp16 on the wire at all these places against fp32: 16 rows")
    assert bytes_.startswith("int8 on the wire")
    assert kept.startswith("keys and values in int8 (serve --kv int8)")
    assert "keep 100.0% of the most likely tokens" in kept
    assert source.startswith(
        "against the same graph in one piece, run by ONNX Runtime: 32 rows of logits (exact) off by up to"
    )
    assert re.fullmatch(r"quality over \d+ tokens of text \(fast\): perplexity [\d.e+]+; \d+ \w+ on disk, .*", quality)
    assert wires.startswith("on the wire between three nodes fp16 keeps 100.0% of the most likely tokens")
    assert left_out == "not compared: the graph with the checkpoint that it was exported from"
    assert cli.run([*home, "model", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["check"]["rows"] == 32
    assert (shown["quality"]["model"]["source_perplexity"], shown["quality"]["wire"]) == (None, "fp16")
    shutil.rmtree(folder)
    assert cli.run([*home, "model", "verify"]) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 5
    assert "NOT compared with its source: " in printed.err
