"""What is added computes what its source computes; what was converted to another model is refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from orchestrator.model import convert
from orchestrator.model.errors import WrongConversion
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from tests.support.in_process import converting_here, run_here
from tests.support.tiny_models import MORE_FAMILIES, TRAINED_TOKENS, VOCABULARY, make_checkpoint

TEXT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(TRAINED_TOKENS + 26)]
ENDING = ("llama-longrope", "phi3-longrope")
"""Their models end where they were trained to."""
Change = Callable[[ModelProto], None]


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
    assert manifest.max_context == (TRAINED_TOKENS if family in ENDING else 256)
    with torch.no_grad():
        original = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        expected = original(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(Chain(store.open()).run(ids, range(len(ids))) - expected).max() < 1e-3
    report = store.compared()
    assert report is not None
    assert report.problems() == []
    assert report.structure_difference < 1e-5
    assert report.rope_difference == 0
    assert report.rope_positions == manifest.max_context


def exchange(model: ModelProto, one: str, other: str) -> None:
    """Give tensors with ``one`` in their names the values of those with ``other`` there, and the other way round."""
    weights = {t.name: t for t in model.graph.initializer}
    pairs = [
        (name, name.replace(one, other)) for name in weights if one in name and name.replace(one, other) in weights
    ]
    assert pairs
    for a, b in pairs:
        weights[a].raw_data, weights[b].raw_data = weights[b].raw_data, weights[a].raw_data


def exchange_blocks(model: ModelProto) -> None:
    if any("layers.3." in tensor.name for tensor in model.graph.initializer):
        exchange(model, "layers.2.", "layers.3.")


def exchange_norms(model: ModelProto) -> None:
    if any("layers.3." in tensor.name for tensor in model.graph.initializer):
        exchange(model, "layers.2.input_layernorm", "layers.2.post_attention_layernorm")


def change_attribute(operator: str, name: str, change: Callable[[float], float]) -> Change:
    def apply(model: ModelProto) -> None:
        found = [a for n in model.graph.node if n.op_type == operator for a in n.attribute if a.name == name]
        assert found
        for attribute in found:
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = int(change(attribute.i))
            else:
                attribute.f = change(attribute.f)

    return apply


def forget_scaling(model: ModelProto) -> None:
    """Tables of a rotary embedding that nobody scaled."""
    for tensor in model.graph.initializer:
        if tensor.name in ("cos_cache", "sin_cache"):
            angles = np.outer(np.arange(tensor.dims[0]), 1e4 ** (-np.arange(tensor.dims[1]) / tensor.dims[1]))
            values = (np.cos if tensor.name == "cos_cache" else np.sin)(angles).astype(np.float32)
            tensor.raw_data = values.tobytes()


WRONG: dict[str, tuple[str, Change, str]] = {
    "unscaled rope": ("llama-yarn", forget_scaling, "rotary embedding turns by other angles below position 256"),
    "another block": ("llama", exchange_blocks, "unit [34] is off by"),
    "another norm": ("llama", exchange_norms, "a norm or bias has other weights"),
    "window": ("mistral", change_attribute("GroupQueryAttention", "local_window_size", lambda n: n + 1), "1 blocks"),
    "softmax": (
        "qwen3",
        change_attribute("GroupQueryAttention", "scale", lambda x: 1.02 * x),
        "compute something else",
    ),
    "epsilon": ("gemma3", change_attribute("SimplifiedLayerNormalization", "epsilon", lambda x: 1e-3), "3 blocks"),
}


@pytest.mark.parametrize(("defect", "precision"), [*((defect, "int4") for defect in WRONG), ("softmax", "fp32")])
def test_another_model_than_the_source_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: Callable[[str], Path],
    defect: str,
    precision: str,
) -> None:
    family, change, words = WRONG[defect]

    def build_wrongly(module: str, arguments: list[str], *others: Any) -> None:
        run_here(module, arguments, *others)
        if module == "orchestrator.model.genai_builder":
            path = Path(arguments[1]) / "model.onnx"
            model = onnx.load(str(path))
            change(model)
            onnx.save(model, str(path))

    monkeypatch.setattr(convert, "run_module", build_wrongly)
    store = ModelStore(tmp_path / "home")
    with pytest.raises(WrongConversion, match=words) as caught:
        store.add(str(checkpoints(family)), precision=precision)
    assert "\n" not in str(caught.value)
    assert store.names() == ()
