"""Architectures with builders of our own compute what transformers does; `benchmarks/families.py` tries all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.model.differences import relative_differences
from orchestrator.model.errors import ModelError
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain, verify
from tests.support.family_checkpoints import ROWS, make_family, source_logits
from tests.support.in_process import converting_here
from tests.support.tiny_models import VOCABULARY

TEXT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(72)]
"""Past windows and the length that scaled rotary embeddings were trained with."""
OURS = [
    "Gemma", "Gemma 2", "Gemma 3", "Gemma 3, text of a model that sees", "Ministral 3, text of a model that sees",
    "Phi-2", "Phi-4-mini", "OLMo 2", "OLMo 3", "HunYuan dense", "StarCoder2", "GPT-NeoX", "Pythia, one after the other",
    "GPT-2", "Cohere Command R", "StableLM", "StableLM, side by side", "Arcee", "LFM2, biases",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with converting_here():
        yield


@pytest.mark.parametrize("name", OURS)
def test_what_is_added_is_what_transformers_computes(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    checkpoint = make_family(name, tmp_path / "checkpoint")
    model = ModelStore(tmp_path / "home").add(str(checkpoint), precision="fp32")
    assert model.max_context == row.context
    ids = TEXT[: row.context]
    expected = source_logits(name, checkpoint, ids)
    chain = Chain(ModelStore(tmp_path / "home").open())
    made = [chain.run(ids[:30], range(30)), *(chain.run([token], [0]) for token in ids[30:])]
    assert relative_differences(np.concatenate(made), expected).max() < 3e-5
    assert verify(ModelStore(tmp_path / "home").open(), None, ids[:30]).bitwise_equal


def change_config(checkpoint: Path, before: str, after: str) -> None:
    text = (checkpoint / "config.json").read_text("utf-8")
    assert before in text
    (checkpoint / "config.json").write_text(text.replace(before, after), "utf-8")


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("OLMo", '"clip_qkv": null', '"clip_qkv": 8.0', "take OLMo 2"),
        ("GPT-2", '"scale_attn_weights": true', '"scale_attn_weights": false', "take Pythia"),
    ],
)
def test_a_variant_that_is_not_built_is_refused(tmp_path: Path, name: str, before: str, after: str, words: str) -> None:
    checkpoint = make_family(name, tmp_path / "checkpoint")
    change_config(checkpoint, before, after)
    with pytest.raises(ModelError, match=words) as caught:
        ModelStore(tmp_path / "home").add(str(checkpoint), precision="fp32")
    assert "\n" not in str(caught.value)
