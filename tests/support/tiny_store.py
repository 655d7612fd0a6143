"""The model ``tiny`` of many tests: a random Llama of four blocks, fp32, embedding tied to the head."""

from __future__ import annotations

from orchestrator.model.store import ModelStore
from tests.support.tiny_models import make_checkpoint

TINY = "tiny"


def add_tiny(store: ModelStore) -> None:
    """Have it in a store; its source stays beside that."""
    checkpoint = make_checkpoint("llama", store.home.parent / "checkpoint")
    store.add(str(checkpoint), name=TINY, precision="fp32", profile="exact")
