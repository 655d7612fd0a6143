"""Weights that are written some rows at a time have the bytes that they have in one piece."""

from __future__ import annotations

import io

import pytest

from orchestrator.model import builder_weights
from orchestrator.model.builder_weights import InRows


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_the_whole(monkeypatch: pytest.MonkeyPatch, dtype: str, transposed: bool) -> None:
    import torch

    monkeypatch.setattr(builder_weights, "PIECE_VALUES", 100)
    torch.manual_seed(0)
    stored = torch.randn(37, 24).to(getattr(torch, dtype))
    tensor = stored.T if transposed else stored
    made = InRows(tensor, "weight")
    out = io.BytesIO()
    made.tofile(out)
    assert out.getvalue() == tensor.float().contiguous().numpy().tobytes() == made.tobytes()
    assert made.nbytes == 4 * tensor.numel()
