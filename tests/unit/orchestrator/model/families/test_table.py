"""What the code supports, what the documentation says is supported, and what the benchmark tries are the same."""

from __future__ import annotations

import re

import pytest

from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.table import INSTEAD, SUPPORTED, check_supported
from orchestrator.model.families.text_part import TEXT_MODELS
from tests.support.family_checkpoints import ROWS
from tests.support.repository import ROOT

WITH_TEXT = {architecture for architecture, _ in TEXT_MODELS}
DOCUMENTED = (ROOT / "docs" / "models.md").read_text("utf-8")


def cells(heading: str, column: int) -> list[str]:
    """The cells of one column of the table that begins with this heading."""
    lines = iter(DOCUMENTED.splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append(line.strip("|").split("|")[column].strip())
    return rows


def test_the_benchmark_tries_every_architecture() -> None:
    assert {row.model_class for row in ROWS.values()} == SUPPORTED.keys() | WITH_TEXT


def test_the_documented_table_has_every_architecture() -> None:
    assert cells("family", 0) == list(ROWS)
    assert cells("family", 1) == [row.model_class for row in ROWS.values()]
    assert cells("not supported", 0) == list(INSTEAD)
    assert cells("not supported", 1) == list(INSTEAD.values())


def test_what_is_not_supported_has_its_line() -> None:
    assert not INSTEAD.keys() & (SUPPORTED.keys() | WITH_TEXT)
    for architecture, advice in INSTEAD.items():
        with pytest.raises(UnsupportedModel, match=f"^it: .*{re.escape(architecture)} is not .*{re.escape(advice)}$"):
            check_supported(architecture, "it", "fast")


def test_what_nobody_thought_of_is_told_what_there_is() -> None:
    with pytest.raises(UnsupportedModel, match=r"ONNX export.*, Llama 2, 3, .*StarCoder2$"):
        check_supported("NeverSeenForCausalLM", "it", "fast")


def test_states_and_the_steady_profile_do_not_go_together() -> None:
    check_supported("Qwen3_5ForCausalLM", "it", "exact")
    with pytest.raises(UnsupportedModel, match=r"^it: its blocks fold all positions into a state.*--profile exact$"):
        check_supported("Qwen3_5ForCausalLM", "it", "steady")
    folding = {architecture for architecture, family in SUPPORTED.items() if family.folds_positions}
    assert folding == {"Qwen3_5ForCausalLM"}


def test_what_is_supported_passes() -> None:
    for architecture in SUPPORTED:
        check_supported(architecture, "it", "fast")
