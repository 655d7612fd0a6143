"""GGUF files of tiny checkpoints, and what can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.tiny_models import VOCABULARY


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """The order of rotary halves that llama.cpp keeps query and key in."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(
    checkpoint: Path,
    path: Path,
    *,
    tell: Callable[[Any], None] = lambda writer: None,
    change: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None,
    tensors_per_part: int = 0,
    architecture: str = "llama",
) -> None:
    """A float32 GGUF of a checkpoint with its byte-level BPE tokenizer, as llama.cpp's converter writes them.

    Args:
        tell: writes more entries.
        change: of the tensors, by name.
        tensors_per_part: 0 for one file; else ``path`` gets a part's number in its name.
    """
    import gguf
    from safetensors.numpy import load_file

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(path), architecture, split_max_tensors=tensors_per_part)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(VOCABULARY)
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(vocabulary) - 3))
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template(json.loads((checkpoint / "tokenizer_config.json").read_text())["chat_template"])
    tell(writer)
    tensors: dict[str, np.ndarray] = {}
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    for name, weight in load_file(checkpoint / "model.safetensors").items():
        stem, _, ending = name.rpartition(".")
        if architecture == "llama" and stem.endswith(("q_proj", "k_proj")):
            weight = np.ascontiguousarray(interleave(weight, heads if stem.endswith("q_proj") else kv_heads))
        if architecture.startswith("gemma") and "norm" in stem:
            weight = weight + 1
        tensors[f"{names.get_name(stem)}.{ending}"] = weight
    change(tensors)
    for name, weight in tensors.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
