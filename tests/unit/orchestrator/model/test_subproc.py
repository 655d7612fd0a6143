"""A conversion step that ends with an error of ours ends its caller with the same, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.model.errors import BrokenModel, ConversionFailed, ModelError, UnsupportedModel
from orchestrator.model.subproc import run_module


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        (
            "from orchestrator.model.errors import BrokenModel as E; raise E('it lacks a: b')",
            BrokenModel,
            "it lacks a: b",
        ),
        ("from orchestrator.model.errors import UnsupportedModel as E; raise E('no x')", UnsupportedModel, "no x"),
        ("raise ValueError('odd')", ConversionFailed, "ValueError: odd"),
    ],
)
def test_errors_of_ours_stay_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, kind: type[ModelError], words: str
) -> None:
    (tmp_path / "a_step.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(kind) as caught:
        run_module("a_step", [], "reading tiny", lambda _: None, tmp_path)
    assert type(caught.value) is kind
    assert str(caught.value) == f"reading tiny failed: {words}"


def test_a_step_keeps_its_docstrings_whatever_pythons_optimiser_is_set_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_step.py").write_text("'Said.'; print(__doc__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    said: list[str] = []
    run_module("a_step", [], "reading tiny", said.append, tmp_path)
    assert said == ["Said."]
