"""The architectures that can be converted, and what to take instead of those that can't.

A family is here only if every row of `benchmarks/families.py` holds for it. Its builder is a class of
onnxruntime-genai or, where that makes another model or knows none, one of this folder; it is loaded in the converting
process alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from orchestrator.model.attention import FOLDS
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.precision import PROFILES

_THEIRS, _OURS = "onnxruntime_genai.models.builder", "orchestrator.model.families"


@dataclass(frozen=True)
class Family:
    """An architecture: its name for people, its builder as ``module:class``, and do its blocks fold all positions into
    a state?"""

    title: str
    builder: str
    folds_positions: bool = False


SUPPORTED: dict[str, Family] = {
    "ArceeForCausalLM": Family("Arcee", f"{_OURS}.llama_like:Arcee"),
    "CohereForCausalLM": Family("Cohere Command R", f"{_OURS}.cohere:Cohere"),
    "Ernie4_5ForCausalLM": Family("ERNIE 4.5", f"{_THEIRS}:ErnieModel"),
    "GPT2LMHeadModel": Family("GPT-2", f"{_OURS}.gpt2:GPT2"),
    "GPTNeoXForCausalLM": Family("GPT-NeoX, Pythia", f"{_OURS}.gpt_neox:GPTNeoX"),
    "Gemma2ForCausalLM": Family("Gemma 2", f"{_OURS}.gemma:Gemma2"),
    "Gemma3ForCausalLM": Family("Gemma 3", f"{_OURS}.gemma:Gemma3"),
    "GemmaForCausalLM": Family("Gemma", f"{_OURS}.gemma:Gemma"),
    "GraniteForCausalLM": Family("Granite 3", f"{_THEIRS}:GraniteModel"),
    "HunYuanDenseV1ForCausalLM": Family("HunYuan dense", f"{_OURS}.hunyuan:HunYuan"),
    "Lfm2ForCausalLM": Family("LFM2", f"{_OURS}.lfm2:Lfm2"),
    "LlamaForCausalLM": Family("Llama 2, 3", f"{_THEIRS}:LlamaModel"),
    "Ministral3ForCausalLM": Family("Ministral 3", f"{_OURS}.mistral:Ministral3"),
    "MinistralForCausalLM": Family("Ministral", f"{_THEIRS}:MistralModel"),
    "MistralForCausalLM": Family("Mistral", f"{_OURS}.mistral:Mistral"),
    "NemotronForCausalLM": Family("Nemotron", f"{_THEIRS}:NemotronModel"),
    "Olmo2ForCausalLM": Family("OLMo 2", f"{_OURS}.olmo:Olmo2"),
    "Olmo3ForCausalLM": Family("OLMo 3", f"{_OURS}.olmo:Olmo3"),
    "OlmoForCausalLM": Family("OLMo", f"{_OURS}.olmo:Olmo"),
    "Phi3ForCausalLM": Family("Phi-3, Phi-4-mini", f"{_OURS}.phi:Phi3"),
    "PhiForCausalLM": Family("Phi-1, Phi-2", f"{_OURS}.phi:Phi"),
    "Qwen2ForCausalLM": Family("Qwen2, Qwen2.5", f"{_THEIRS}:QwenModel"),
    "Qwen3ForCausalLM": Family("Qwen3", f"{_THEIRS}:Qwen3Model"),
    "Qwen3_5ForCausalLM": Family("Qwen3.5", f"{_OURS}.qwen3_5:Qwen35", folds_positions=True),
    "SeedOssForCausalLM": Family("Seed-OSS", f"{_THEIRS}:LlamaModel"),
    "SmolLM3ForCausalLM": Family("SmolLM3", f"{_OURS}.smollm3:SmolLM3"),
    "StableLmForCausalLM": Family("StableLM", f"{_OURS}.stablelm:StableLm"),
    "Starcoder2ForCausalLM": Family("StarCoder2", f"{_OURS}.starcoder2:StarCoder2"),
}
"""By the name in config.json's ``architectures``."""


_CODE = "transformers has no code for it; take"
_EXPERTS = "mixtures of experts are not built; take"
_STATE = "its blocks keep a state that is not a KV cache; take"
_SENSES = "it reads more than text; take"
_ENCODER = "it has an encoder, or is one; take"
INSTEAD: dict[str, str] = {
    "BertForMaskedLM": f"{_ENCODER} a Qwen3 or a Llama of its size",
    "BertModel": f"{_ENCODER} a Qwen3 or a Llama of its size",
    "ChatGLMForConditionalGeneration": f"{_CODE} a Qwen3 or a Llama of its size",
    "ChatGLMModel": f"{_CODE} a Qwen3 or a Llama of its size",
    "DeepseekV3ForCausalLM": f"{_EXPERTS} one of DeepSeek-R1-Distill (Qwen2, Llama)",
    "Gemma3nForConditionalGeneration": "its blocks read embeddings of their own; take Gemma 3",
    "Gemma4ForConditionalGeneration": "its blocks read embeddings of their own; take Gemma 3",
    "GptOssForCausalLM": f"{_EXPERTS} Qwen3 or Phi-4-mini",
    "GraniteMoeForCausalLM": f"{_EXPERTS} Granite 3 (2b, 8b)",
    "GraniteMoeHybridForCausalLM": f"{_STATE} Granite 3",
    "InternLM2ForCausalLM": f"{_CODE} a Qwen2.5 or a Llama of its size",
    "MambaForCausalLM": f"{_STATE} a Pythia of its size",
    "MixtralForCausalLM": f"{_EXPERTS} Mistral",
    "OlmoeForCausalLM": f"{_EXPERTS} OLMo 2",
    "OPTForCausalLM": "no builder knows its blocks; take a Pythia of its size",
    "Phi4MMForCausalLM": f"{_SENSES} Phi-4-mini",
    "PhiMoEForCausalLM": f"{_EXPERTS} Phi-3",
    "Qwen2MoeForCausalLM": f"{_EXPERTS} Qwen2.5",
    "Qwen2_5_VLForConditionalGeneration": f"{_SENSES} Qwen2.5",
    "Qwen3MoeForCausalLM": f"{_EXPERTS} Qwen3",
    "Qwen3NextForCausalLM": f"{_STATE} Qwen3",
    "Qwen3VLForConditionalGeneration": f"{_SENSES} Qwen3",
    "T5ForConditionalGeneration": f"{_ENCODER} a Qwen3 or a Llama of its size",
}
"""What is not supported and why, and what is nearest to it."""


def check_supported(architecture: str, what: str, profile: str) -> None:
    """Refuse what can't be converted, with the nearest thing that can, and what can't be computed in a profile.

    Args:
        what: the source, for the message.

    Raises:
        UnsupportedModel: it isn't one of `SUPPORTED`, or another profile will do.
    """
    if architecture in SUPPORTED:
        if PROFILES[profile].same_bits and SUPPORTED[architecture].folds_positions:
            raise UnsupportedModel(f"{what}: {FOLDS}")
        return
    titles = ", ".join(dict.fromkeys(family.title for family in SUPPORTED.values()))
    advice = INSTEAD.get(architecture) or f"take an ONNX export of it with GroupQueryAttention, or one of {titles}"
    raise UnsupportedModel(f"{what}: architecture {architecture} is not supported: {advice}")


def builder_class(architecture: str) -> Any:
    """The builder of a supported architecture; imports torch."""
    module, _, name = SUPPORTED[architecture].builder.partition(":")
    return getattr(importlib.import_module(module), name)
