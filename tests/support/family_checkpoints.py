"""A tiny random checkpoint of each family, and of each kind of rotary embedding, with a real one's proportions.

Heads are grouped, their width is not that of the hidden state over their number where a family allows it, a window and
the length that a scaled rotary embedding was trained with are shorter than the texts of a comparison, and no root of a
width is a whole number.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.tiny_models import CONTEXT, VOCABULARY, make_tokenizer

WINDOW, TRAINED_TOKENS = 24, 64
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
_FACTORS = {"short_factor": [1.0, 1.1] * 4, "long_factor": [2.0, 4.0] * 4}
_TRAINED = {"original_max_position_embeddings": TRAINED_TOKENS}
_MINISTRAL_3 = {"factor": 4.0, "llama_4_scaling_beta": 0.1, "beta_fast": 32.0, "beta_slow": 1.0, **_TRAINED}
_THREE_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 3}
_TIED = {"tie_word_embeddings": True}
_TWO_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
_GEMMA_3 = _TIED | {
    "head_dim": 32,
    "num_hidden_layers": 6,
    "query_pre_attn_scalar": 24,
    "sliding_window": WINDOW,
    "rope_parameters": _TWO_ROPES,
}
_YARN_IN_FULL = {
    "full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5e5, **_TRAINED},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
}
_EYES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 14,
}
_SMALL_EYES = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 96}
_DELTA_RULES = _TIED | {
    "head_dim": 64,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.25,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    },
}
_MIXED_LAYERS = ["sliding_attention", "full_attention"] * 2


def _rope(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 1e4, **parameters}}


@dataclass(frozen=True)
class FamilyRow:
    """One model to try.

    Attributes:
        prefix: transformers' classes are ``{prefix}Config`` and ``architecture``.
        settings: of its configuration, beside those that all have.
        context: how long a text may be once it is converted.
    """

    prefix: str
    settings: dict[str, Any] = field(default_factory=dict)
    architecture: str = ""
    context: int = CONTEXT

    @property
    def model_class(self) -> str:
        return self.architecture or f"{self.prefix}ForCausalLM"


ROWS: dict[str, FamilyRow] = {
    "Llama 2": FamilyRow("Llama"),
    "Llama 2, heads of 24": FamilyRow("Llama", {"head_dim": 24}),
    "Llama 2, linear": FamilyRow("Llama", _rope("linear", factor=4.0)),
    "Llama 2, dynamic": FamilyRow("Llama", _rope("dynamic", factor=4.0)),
    "Llama, yarn": FamilyRow("Llama", _rope("yarn", factor=4.0, **_TRAINED)),
    "Llama, longrope": FamilyRow("Llama", _rope("longrope", **_FACTORS, **_TRAINED), context=TRAINED_TOKENS),
    "Llama 3.1, 3.2, llama3": FamilyRow(
        "Llama", _TIED | _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **_TRAINED)
    ),
    "Qwen2": FamilyRow("Qwen2", _TIED),
    "Qwen2.5, yarn": FamilyRow("Qwen2", _rope("yarn", factor=4.0, **_TRAINED)),
    "Qwen2, window": FamilyRow("Qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "Qwen3": FamilyRow("Qwen3", _TIED | {"head_dim": 32}),
    "Mistral": FamilyRow("Mistral", {"sliding_window": None, "head_dim": 32}),
    "Mistral, window": FamilyRow("Mistral", {"sliding_window": WINDOW}),
    "Ministral": FamilyRow("Ministral", {"sliding_window": WINDOW, "layer_types": _MIXED_LAYERS, "head_dim": 32}),
    "Ministral 3": FamilyRow(
        "Ministral3",
        {"head_dim": 32} | _rope("yarn", **_MINISTRAL_3),
        context=TRAINED_TOKENS,
    ),
    "Phi-2": FamilyRow("Phi", _THREE_HEADS | _rope("default", partial_rotary_factor=0.5)),
    "Phi-3": FamilyRow("Phi3", {"sliding_window": WINDOW, "original_max_position_embeddings": CONTEXT}),
    "Phi-3, longrope": FamilyRow("Phi3", _TRAINED | _rope("longrope", **_FACTORS, **_TRAINED), context=TRAINED_TOKENS),
    "Phi-4-mini": FamilyRow(
        "Phi3",
        _TIED
        | {"hidden_size": 256, "num_attention_heads": 4}
        | _TRAINED
        | _rope(
            "longrope",
            short_factor=[1.0, 1.1] * 12,
            long_factor=[2.0, 4.0] * 12,
            partial_rotary_factor=0.75,
            **_TRAINED,
        ),
        context=TRAINED_TOKENS,
    ),
    "Gemma": FamilyRow("Gemma", _TIED | {"head_dim": 32}),
    "Gemma 2": FamilyRow("Gemma2", _TIED | {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}),
    "Gemma 3": FamilyRow(
        "Gemma3Text",
        _GEMMA_3,
        "Gemma3ForCausalLM",
    ),
    "Gemma 3, text of a model that sees": FamilyRow(
        "Gemma3",
        {
            "text_config": _COMMON | _GEMMA_3,
            "vision_config": _EYES | {"image_size": 28, "vision_use_head": False},
            "mm_tokens_per_image": 4,
        },
        "Gemma3ForConditionalGeneration",
    ),
    "Ministral 3, text of a model that sees": FamilyRow(
        "Mistral3",
        {
            "text_config": _COMMON | {"model_type": "ministral3", "head_dim": 32} | _rope("yarn", **_MINISTRAL_3),
            "vision_config": _EYES | {"model_type": "pixtral", "image_size": 28, "head_dim": 16},
        },
        "Mistral3ForConditionalGeneration",
        context=TRAINED_TOKENS,
    ),
    "SmolLM3": FamilyRow("SmolLM3", _TIED | {"no_rope_layers": [1, 1, 0, 1]}),
    "LFM2": FamilyRow("Lfm2", _TIED | {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 32}),
    "LFM2, biases": FamilyRow(
        "Lfm2",
        _TIED | {"layer_types": ["full_attention", "conv", "conv", "conv"], "conv_bias": True, "conv_L_cache": 4},
    ),
    "Qwen3.5": FamilyRow("Qwen3_5Text", _DELTA_RULES, "Qwen3_5ForCausalLM"),
    "Qwen3.5, text of a model that sees": FamilyRow(
        "Qwen3_5",
        {
            "text_config": _COMMON | _DELTA_RULES | {"model_type": "qwen3_5_text"},
            "vision_config": _SMALL_EYES,
        },
        "Qwen3_5ForConditionalGeneration",
    ),
    "Granite 3": FamilyRow(
        "Granite",
        _TIED
        | {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.2,
            "logits_scaling": 8.0,
        },
    ),
    "OLMo": FamilyRow("Olmo"),
    "OLMo 2": FamilyRow("Olmo2"),
    "OLMo 3": FamilyRow(
        "Olmo3", {"sliding_window": WINDOW, "layer_types": _MIXED_LAYERS, "rope_parameters": _YARN_IN_FULL}
    ),
    "HunYuan dense": FamilyRow("HunYuanDenseV1", _TIED | {"head_dim": 32} | _rope("dynamic", factor=1.0, alpha=1000.0)),
    "ERNIE 4.5": FamilyRow("Ernie4_5", _TIED | {"use_bias": False, "head_dim": 32}),
    "Nemotron": FamilyRow("Nemotron", {"head_dim": 32} | _rope("default", partial_rotary_factor=0.5)),
    "StarCoder2": FamilyRow("Starcoder2", _TIED | {"sliding_window": WINDOW}),
    "GPT-NeoX": FamilyRow("GPTNeoX", _THREE_HEADS | _rope("default", partial_rotary_factor=0.5)),
    "Pythia, one after the other": FamilyRow(
        "GPTNeoX",
        {"use_parallel_residual": False, "num_key_value_heads": 6} | _rope("default", partial_rotary_factor=0.25),
    ),
    "GPT-2": FamilyRow(
        "GPT2",
        _TIED | {"n_embd": 96, "n_head": 6, "n_layer": 4, "n_positions": CONTEXT},
        "GPT2LMHeadModel",
    ),
    "Cohere Command R": FamilyRow("Cohere", _TIED | {"logit_scale": 0.25}),
    "StableLM": FamilyRow("StableLm", {"use_qkv_bias": True} | _rope("default", partial_rotary_factor=0.25)),
    "StableLM, side by side": FamilyRow(
        "StableLm",
        {"use_parallel_residual": True, "num_attention_heads": 3, "num_key_value_heads": 1}
        | _rope("default", partial_rotary_factor=0.5),
    ),
    "Seed-OSS": FamilyRow("SeedOss", {"head_dim": 32, "attention_bias": True, "attention_out_bias": True}),
    "Arcee": FamilyRow("Arcee", {"head_dim": 32} | _rope("yarn", factor=4.0, **_TRAINED)),
}


def make_family(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the random checkpoint of a row, with its tokenizer; returns ``folder``."""
    import torch
    import transformers

    row = ROWS[name]
    common = {} if "text_config" in row.settings else dict(_COMMON)
    if row.prefix == "GPT2":
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            del common[key]
        del common["num_key_value_heads"], common["max_position_embeddings"]
    config = getattr(transformers, f"{row.prefix}Config")(**(common | row.settings))
    torch.manual_seed(seed)
    model = getattr(transformers, row.model_class)(config).eval()
    embedding = 0.01 if row.prefix.startswith("Gemma") else 0.1  # Gemma multiplies it by sqrt(hidden_size)
    spread = 0.15 * math.sqrt(_COMMON["hidden_size"] / config.get_text_config().hidden_size)  # logits aren't flat
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "norm" in key or ".ln_" in key:
                weight.add_(0.1 * torch.randn_like(weight))
            elif key.endswith("A_log"):
                weight.copy_(torch.randn_like(weight) - 3)  # a delta rule that remembers: else its result is a sign
            else:
                weight.copy_(torch.randn_like(weight) * (embedding if "embed" in key or "wte" in key else spread))
    model.save_pretrained(str(folder))
    make_tokenizer(folder)
    return folder


def source_logits(name: str, checkpoint: Path, ids: Sequence[int]) -> NDArray[np.float32]:
    """What transformers computes of a row's checkpoint in float32: logits [S, V]."""
    import torch
    import transformers

    source = getattr(transformers, ROWS[name].model_class).from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    with torch.no_grad():
        logits: NDArray[np.float32] = source(input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    return logits


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What libraries print in the block goes nowhere; transformers is told to print as little as it can."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
