"""What transformers overlooks in a GGUF file's entries and takes from its own defaults; rotary embeddings aside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WITH_HEAD_DIM = ("llama", "mistral", "qwen3", "gemma2", "gemma3")
"""Others have heads as wide as hidden states have place for, or their weights have another shape than expected."""
GEMMA = ("gemma2", "gemma3")
GEMMA_27B_BLOCKS = {"gemma2": 46, "gemma3": 62}
"""The only ones that don't scale attention by their head's size, which no entry says: llama.cpp knows them by this."""


def overlooked(entries: Mapping[str, int | float | str]) -> dict[str, Any]:
    """Values of transformers' configuration, by name.

    Args:
        entries: of the header, by key.
    """
    architecture = str(entries.get("general.architecture"))
    told = {key.removeprefix(f"{architecture}."): value for key, value in entries.items()}
    found: dict[str, Any] = {"pad_token_id": None}  # some defaults are beyond a small vocabulary
    head = told.get("attention.key_length")
    if head is not None and architecture in WITH_HEAD_DIM:
        found["head_dim"] = int(head)
    if architecture == "phi3" and "attention.sliding_window" in told:
        found["sliding_window"] = int(told["attention.sliding_window"]) or None
    if architecture in GEMMA and head is not None:
        heads_alike = told.get("block_count") != GEMMA_27B_BLOCKS[architecture]
        width, heads = int(told.get("embedding_length", 0)), int(told.get("attention.head_count", 1))
        found["query_pre_attn_scalar"] = int(head) if heads_alike else width // heads
    if architecture == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        found |= {name: float(told[name]) for name in caps if name in told}
    return found
