"""Runs onnxruntime-genai's model builder with what it needs to understand the configurations transformers 5 gives it.

Run as ``python -m orchestrator.model.genai_builder HF_FOLDER OUT CACHE PRECISION [KEY=VALUE ...]``, in a process of its
own, whose memory comes back.

Scaled rotary embeddings are the reason for half of it: the builder knows some kinds, for some architectures, and makes
an unscaled one of the others without a word. Here transformers itself computes the frequencies, the builder is told
that there is nothing to scale, and its tables are made of those. Two kinds have other frequencies once a text is longer
than the model was trained for, which a KV cache can't follow: their models end there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.heap import trimming
from orchestrator.model.attention import TURNED_STEP
from orchestrator.model.builder_tokenizer import leave_tokenizer_out
from orchestrator.model.builder_weights import write_in_rows
from orchestrator.model.checkpoint_weights import check_names_and_shapes
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.settings import name_epsilon
from orchestrator.model.families.table import builder_class

if TYPE_CHECKING:
    import torch

ANY_FAMILY, BUILDER_OF_ANY = "LlamaForCausalLM", "LlamaModel"
"""The builder is told of this architecture whatever the model is, and given the family's class in this one's place."""
CHANGING = ("dynamic", "longrope")


@dataclass(frozen=True)
class Frequencies:
    """A scaled rotary embedding: inverse frequencies [D / 2], and a factor for cosines and sines."""

    inverse: torch.Tensor
    factor: float


def settle_rope(config: Any) -> Frequencies | None:
    """Take the scaling of rotary embeddings out of a configuration; None if there is none.

    Raises:
        UnsupportedModel: transformers doesn't know this kind either, or sliding-window layers are scaled.
    """
    flatten_rope(config)
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_type", "default") == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = rope["rope_type"]
    if kind not in ROPE_INIT_FUNCTIONS:
        raise UnsupportedModel(f"rotary embeddings of the kind {kind} are not supported")
    inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, None)
    if kind in CHANGING:
        trained = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        config.max_position_embeddings = min(trained, config.max_position_embeddings)
    kept = ("rope_theta", "partial_rotary_factor")
    config.rope_parameters = {"rope_type": "default", **{name: rope[name] for name in kept if name in rope}}
    config.original_max_position_embeddings = config.max_position_embeddings
    return Frequencies(inverse, float(factor))


def flatten_rope(config: Any) -> None:
    """Give a configuration with one RoPE per attention type (Gemma 3) the form the builder reads.

    transformers 5 keeps ``rope_parameters = {"full_attention": {...}, "sliding_attention": {...}}``; the builder
    expects the full one at the top and the sliding one's base frequency as ``rope_local_base_freq``.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict) or "full_attention" not in parameters:
        return
    sliding = parameters.get("sliding_attention", {})
    if sliding.get("rope_type", "default") != "default":
        raise UnsupportedModel(f"sliding-window layers with {sliding['rope_type']} RoPE are not supported")
    config.rope_local_base_freq = sliding.get("rope_theta", 10_000.0)
    config.rope_parameters = dict(parameters["full_attention"])
    config.rope_theta = config.rope_parameters.get("rope_theta", 1_000_000.0)


def use_frequencies(model: Any, frequencies: Frequencies) -> None:
    """Have the builder's class ``model`` make its rotary tables of these; not those of Gemma 3's sliding windows."""
    import torch

    make, make_usual = model.make_rotary_embedding_caches, model.make_rotary_embedding_caches_from_scratch

    def make_of_kind(self: Any, **names: str) -> Any:
        self.is_local_table = names.get("cos_cache_name", "").endswith("_local")
        return make(self, **names)

    def make_scaled(self: Any) -> Any:
        if self.is_local_table:
            return make_usual(self)
        positions = torch.arange(self.rope_attrs["cache_length"], dtype=torch.int64).type_as(frequencies.inverse)
        angles = torch.outer(positions, frequencies.inverse)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos() * frequencies.factor, both.sin() * frequencies.factor

    model.make_rotary_embedding_caches = make_of_kind
    model.make_rotary_embedding_caches_from_scratch = make_scaled


def for_heads_of_any_size(family: Any) -> Any:
    """The builder's class ``family`` for heads of all sizes that attention takes.

    ONNX Runtime's attention turns no vectors of heads of an odd multiple of 8 values: these are turned before it.
    """

    class OfAnySize(family):  # type: ignore[misc]
        def is_fused_rope_supported(self) -> bool:
            return bool(self.head_size % TURNED_STEP == 0 and super().is_fused_rope_supported())

        def is_packed_matmul_supported(self) -> bool:
            turns = self.head_size % TURNED_STEP == 0
            return bool(turns and super().is_packed_matmul_supported())

    return OfAnySize


def build(checkpoint: str, out: str, cache: str, precision: str, options: list[str]) -> None:
    """Convert the Hugging Face folder ``checkpoint`` into an ONNX decoder for the CPU in the folder ``out``."""
    from onnxruntime_genai.models import builder

    check_names_and_shapes(Path(checkpoint))
    patched = {(kind, name): getattr(kind, name) for kind, name in _patched(builder)}
    try:
        leave_tokenizer_out(Path(checkpoint), builder, sys.modules[builder.Model.__module__])
        _build(builder, checkpoint, out, cache, precision, options)
    finally:
        for (kind, name), function in patched.items():
            setattr(kind, name, function)


def _build(builder: Any, checkpoint: str, out: str, cache: str, precision: str, options: list[str]) -> None:
    parsed = builder.parse_extra_options(None, checkpoint, out, precision, "cpu", cache, options)
    config = parsed["hf_details"]["hf_config"]
    family = builder_class(config.architectures[0])
    getattr(family, "prepare", lambda _: None)(config)
    frequencies = settle_rope(config)
    name_epsilon(config)
    config.architectures = [ANY_FAMILY]
    setattr(builder, BUILDER_OF_ANY, for_heads_of_any_size(family))
    if frequencies is not None:
        use_frequencies(builder.Model, frequencies)
    write_in_rows(builder.Model)
    builder.create_model(None, checkpoint, out, precision, "cpu", cache, **parsed)


def _patched(builder: Any) -> list[tuple[Any, str]]:
    """What is changed for one model and put back, since tests build many in one process."""
    return [
        (builder, BUILDER_OF_ANY),
        (builder, "AutoTokenizer"),
        (sys.modules[builder.Model.__module__], "AutoTokenizer"),
        (builder.Model, "save_processing"),
        (builder.Model, "make_rotary_embedding_caches"),
        (builder.Model, "make_rotary_embedding_caches_from_scratch"),
        (builder.Model, "make_initializer"),
    ]


if __name__ == "__main__":
    with trimming():
        build(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
