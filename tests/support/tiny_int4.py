"""A tiny Llama whose weights are blocks of four bits, each with a correction."""

from __future__ import annotations

from pathlib import Path

from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from tests.support.in_process import converting_here
from tests.support.tiny_models import make_checkpoint


def tiny_int4(folder: Path, profile: str) -> Model:
    """Made anew in a store of its own, ``folder``/home."""
    store = ModelStore(folder / "home")
    with converting_here():
        manifest = store.add(str(make_checkpoint("llama", folder / "tiny")), precision="int4", profile=profile)
    return store.open(manifest.name)
