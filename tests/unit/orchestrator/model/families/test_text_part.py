"""The weights of the language model are copied under their own names, the rest is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.text_part import text_architecture, text_part

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


def checkpoint(folder: Path, architecture: str, **weights: np.ndarray) -> Path:
    folder.mkdir()
    config = {"architectures": [architecture], "text_config": {"model_type": "gemma3_text", "hidden_size": 4}}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    safetensors.save_file(weights, str(folder / "model.safetensors"))
    return folder


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
@pytest.mark.parametrize("tied", [True, False])
def test_text_weights_have_the_names_of_a_model_of_text(tmp_path: Path, prefix: str, tied: bool) -> None:
    head = {} if tied else {"lm_head.weight" if prefix.startswith("model") else "language_model.lm_head.weight": -ROWS}
    weights = {f"{prefix}norm.weight": ROWS, "vision_tower.patch.weight": ROWS[:1], **head}
    source = checkpoint(tmp_path / "source", "Gemma3ForConditionalGeneration", **weights)
    made = text_part(source, tmp_path / "text", "it")
    (file,) = made.glob("*.safetensors")
    found = safetensors.load_file(str(file))
    assert found.keys() == {"model.norm.weight"} | ({"lm_head.weight"} if head else set())
    np.testing.assert_array_equal(found["model.norm.weight"], ROWS)
    if head:
        np.testing.assert_array_equal(found["lm_head.weight"], -ROWS)
    config = json.loads((made / "config.json").read_text("utf-8"))
    assert (config["architectures"], config["hidden_size"]) == (["Gemma3ForCausalLM"], 4)
    assert config["tie_word_embeddings"] is tied
    assert (made / "tokenizer.json").is_file()


def test_a_model_of_text_is_taken_as_it_is(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "Gemma3ForCausalLM", **{"model.norm.weight": ROWS})
    assert text_part(source, tmp_path / "text", "it") == source
    assert text_architecture(source) == "Gemma3ForCausalLM"


def test_weights_in_another_form_are_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source", "Gemma3ForConditionalGeneration", a=ROWS)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"^it: its weights are not safetensors; take"):
        text_part(source, tmp_path / "text", "it")
