"""Tiny random checkpoints of the supported families, and a tokenizer trained on the spot.

Each is a few hundred kilobytes and made in well under a second; its weights are large enough that greedy tokens are
not ties.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 320
CONTEXT = 256
TEXTS = [
    "The capital of France is Paris.",
    "Grüße aus Köln! 你好世界。 Привет, мир. 🙂🚀👩‍💻",
    "def f(x):\n    return x + 1\n",
    "one two three four five six seven eight nine ten",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama-untied": ("Llama", {"tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True, "head_dim": 32}),
    "mistral": ("Mistral", {"sliding_window": 8, "tie_word_embeddings": False}),
    "phi3": ("Phi3", {"tie_word_embeddings": False, "sliding_window": 8, "original_max_position_embeddings": CONTEXT}),
    "phi3-long": (
        "Phi3",
        {
            "tie_word_embeddings": False,
            "original_max_position_embeddings": CONTEXT // 4,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1] * 4, "long_factor": [2.0, 4.0] * 4},
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "num_hidden_layers": 6,
            "head_dim": 32,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
        },
    ),
    "lfm2": (
        "Lfm2",
        {
            "tie_word_embeddings": True,
            "layer_types": ["conv", "full_attention", "conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "qwen3_5": (
        "Qwen3_5",
        {
            "tie_word_embeddings": True,
            "head_dim": 64,
            "layer_types": ["linear_attention", "full_attention", "linear_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    "gemma3-linear": (
        "Gemma3",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "query_pre_attn_scalar": 16,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}
TRAINED_TOKENS = CONTEXT // 4
WIDE_WINDOW = 2 * CONTEXT + 8
"""More than is prefilled at once when models are compared."""
_FACTORS = {"short_factor": [1.0, 1.1] * 4, "long_factor": [2.0, 4.0] * 4}


def _scaled(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 1e4, **parameters}}


_TRAINED = {"original_max_position_embeddings": TRAINED_TOKENS}
MORE_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-linear": ("Llama", _TIED | _scaled("linear", factor=4.0)),
    "llama-yarn": ("Llama", _TIED | _scaled("yarn", factor=4.0, **_TRAINED)),
    "llama-dynamic": ("Llama", _TIED | _scaled("dynamic", factor=4.0)),
    "llama-llama3": (
        "Llama",
        _TIED | _scaled("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, **_TRAINED),
    ),
    "llama-longrope": ("Llama", _TIED | _scaled("longrope", **_FACTORS, **_TRAINED)),
    "qwen2-yarn": ("Qwen2", _TIED | _scaled("yarn", factor=4.0, attention_factor=1.2, **_TRAINED)),
    "phi3-longrope": ("Phi3", {"tie_word_embeddings": False} | _TRAINED | _scaled("longrope", **_FACTORS, **_TRAINED)),
    "mistral-wide": (
        "Mistral",
        {"sliding_window": WIDE_WINDOW, "max_position_embeddings": 4 * CONTEXT, "tie_word_embeddings": False},
    ),
    "gemma3-six": (
        "Gemma3",
        _TIED
        | {
            "num_hidden_layers": 6,
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "olmo": ("Olmo", {"tie_word_embeddings": False}),
    "smollm3": ("SmolLM3", _TIED | {"no_rope_layers": [1, 1, 0, 1]}),
    "granite": (
        "Granite",
        _TIED
        | {
            "embedding_multiplier": 2.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
        },
    ),
    "nemotron": ("Nemotron", {"tie_word_embeddings": False, "head_dim": 32}),
    "ernie": ("Ernie4_5", _TIED | {"use_bias": False, "head_dim": 16}),
    "gemma": ("Gemma", _TIED | {"head_dim": 16}),
    "gemma2": ("Gemma2", _TIED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
}
"""Kinds of rotary embedding, and architectures, that are tried in float32 alone."""


def make_checkpoint(family: str, folder: Path, seed: int = 0, *, spread: float = 0.15, **changes: Any) -> Path:
    """Write a random checkpoint of ``family``, a key of one of the tables, with its tokenizer; returns ``folder``.

    ``spread`` is the standard deviation of weights; with less the text repeats itself. ``changes``: of its
    configuration.
    """
    import torch
    import transformers

    kind, extra = (FAMILIES | MORE_FAMILIES)[family]
    prefix = f"{kind}Text" if kind in ("Gemma3", "Qwen3_5") else kind
    config = getattr(transformers, f"{prefix}Config")(**(_COMMON | extra | changes))
    torch.manual_seed(seed)
    embedding = 0.01 if kind.startswith("Gemma") else 0.1  # Gemma multiplies it by sqrt(hidden_size)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * (embedding if "embed" in name else spread))
    model.save_pretrained(str(folder))
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE tokenizer with a few merges and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(s, special=True) for s in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": CONTEXT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
