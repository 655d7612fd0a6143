"""What is looked at before anything is converted, or while it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.model import parity
from orchestrator.model.describe import Identity
from orchestrator.model.errors import BrokenModel
from orchestrator.model.gguf_weights import finite
from orchestrator.model.intake import take_in
from orchestrator.model.parity import compute_reference
from orchestrator.model.progress import silent
from orchestrator.model.source import Source
from orchestrator.model.tokenizer import require_tokenizer


def test_a_checkpoint_without_a_tokenizer_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.model.intake.checkpoint_of", lambda source, *_: source.path)
    (tmp_path / "tokenizer_config.json").write_text("{}")  # which is none
    source = Source("tiny", "hf", tmp_path, "tiny", "sha256:0", 1)
    identity = Identity("tiny", "tiny", "sha256:0", "fast", "0", "auto")
    with pytest.raises(BrokenModel, match=r"has no tokenizer\.json: download the tokenizer's files too"):
        take_in(source, "auto", tmp_path / "partial", identity, silent)
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"])
def test_any_tokenizer_that_transformers_reads_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    require_tokenizer(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_with_nan_is_refused_where_it_is_read(value: float) -> None:
    tensor: Any = SimpleNamespace(name="blk.0.attn_q.weight")
    pieces = finite(tensor, [np.ones(3, np.float32), np.array([1, value], np.float32)])
    assert next(pieces).tolist() == [1, 1, 1]
    with pytest.raises(BrokenModel, match=r"tensor blk\.0\.attn_q\.weight has NaN or infinity in it"):
        next(pieces)


def test_layers_are_counted_as_the_model_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the source runs through them twice."""

    def run(_module: str, _arguments: list[str], _what: str, on_line: Any, _scratch: Path) -> None:
        for number in range(1, 9):
            on_line(f"layer {number}")

    monkeypatch.setattr(parity, "run_module", run)
    told: list[tuple[str, int, int]] = []
    compute_reference(
        "tiny",
        tmp_path,
        [1],
        [[1, 2]],
        layers=4,
        max_context=64,
        scratch=tmp_path,
        progress=lambda *step: told.append(step),
    )
    assert told[0] == ("reference", 0, 4)
    assert told[-1] == ("reference", 4, 4)
    assert all(done <= total == 4 for _, done, total in told)
