"""SmolLM2-135M-Instruct, int4: the demo's model, fetched and converted once and kept in the user's cache."""

from __future__ import annotations

import harness  # noqa: F401  (puts the repository on the path)

from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from orchestrator.model.model import Model

QUESTION = "What is the capital of France?"


def open_smollm2(profile: str) -> Model:
    """The model in a numeric profile, ``fast``, ``steady`` or ``exact``; all share their weights."""
    store, name = demo_model(default_cache(), profile)
    return store.open(name)
