"""The model ``tiny`` of many tests: a random Llama of four blocks, fp32, embedding tied to the head."""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator.model.store import ModelStore
from tests.support.tiny_models import make_checkpoint

TINY = "tiny"


def add_tiny(store: ModelStore) -> None:
    """Have it in a store."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_checkpoint("llama", Path(folder) / "checkpoint")
        store.add(str(checkpoint), name=TINY, precision="fp32", profile="exact")
