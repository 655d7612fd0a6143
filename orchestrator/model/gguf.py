"""From a ``.gguf`` file to a Hugging Face folder: config, float32 weights, tokenizer and chat template.

transformers reads GGUF but refuses to save a model that came from one, so the folder is written here. It reads one file
of several, makes up what is missing, skips what it does not know and does not look at how rotary embeddings are scaled:
here parts are put together, every tensor is accounted for, and scaling is carried over. Run as
``python -m orchestrator.model.gguf FILE FOLDER``, in a process of its own because it holds the weights in memory.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator.model.checkpoint_weights import refuse_by_report
from orchestrator.model.errors import BrokenModel, UnsupportedModel
from orchestrator.model.gguf_config import overlooked
from orchestrator.model.gguf_header import all_parts, read_header
from orchestrator.model.gguf_rope import ROPE_TENSORS, rope_scaling

SHARD_BYTES = 2 << 30


def convert(source: Path, target: Path) -> None:
    """Write the Hugging Face folder ``target`` from the GGUF file ``source``, or from all parts if it is the first.

    Raises:
        BrokenModel: tensors are missing, or of another shape than the header says.
        UnsupportedModel: there are tensors, or scaled rotary embeddings, that transformers has no place for.
    """
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts, header = all_parts(source), read_header(source)
    read_one = gguf.GGUFReader

    @functools.cache  # transformers parses the header, seconds of Python for a large vocabulary, for each question
    def read_all(_: str) -> Any:
        first, *others = [read_one(str(part)) for part in parts]
        for other in others:
            first.tensors.extend(other.tensors)
        return first

    setattr(gguf, "GGUFReader", read_all)  # noqa: B010 - mypy takes it for a type
    try:
        folder, name = str(source.parent), source.name
        target.mkdir(parents=True, exist_ok=True)
        AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(str(target))
        auto: Any = AutoModelForCausalLM
        model, told = auto.from_pretrained(
            folder,
            gguf_file=name,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **overlooked(header.entries),
        )
        refuse_by_report(told)
        tensors = {tensor.name: tensor for tensor in read_all(str(source)).tensors}
        _refuse_left_over(model, [tensor.name for tensor in read_all(str(source)).tensors])
    finally:
        setattr(gguf, "GGUFReader", read_one)  # noqa: B010
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config["architectures"] = [type(model).__name__]
    divisors = {n: [float(x) for x in tensors[n].data.reshape(-1)] for n in ROPE_TENSORS if n in tensors}
    _scale_rope(config, header.entries, divisors)
    (target / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    ends = {"eos_token_id": list(header.end_ids)}  # of which transformers takes one only
    (target / "generation_config.json").write_text(json.dumps(ends), "utf-8")
    tied = bool(config.get("tie_word_embeddings"))
    weights = {k: v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = tensor.contiguous()
        size += tensor.nbytes
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        save_file(shard, str(target / file), metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
    if len(shards) > 1:
        total = sum(t.nbytes for t in weights.values())
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
        (target / "model.safetensors.index.json").write_text(text, "utf-8")


def _refuse_left_over(model: Any, tensors: list[str]) -> None:
    """All tensors must have got a place in the model, each once."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    twice = sorted({name for name in tensors if tensors.count(name) > 1})
    if twice:
        raise BrokenModel(f"it has tensor {twice[0]} more than once; download it again")
    processor: Any = TENSOR_PROCESSORS.get(model.config.model_type.removesuffix("_text"), TensorProcessor)
    map_names: Any = get_gguf_hf_weights_map
    places = map_names(model, processor(config=model.config.to_dict()))
    left_over = sorted(set(tensors) - set(places) - set(ROPE_TENSORS))
    if left_over:
        more = f" and {len(left_over) - 1} more" if len(left_over) > 1 else ""
        raise UnsupportedModel(f"it has tensors that its architecture has no place for: {left_over[0]}{more}")


def _scale_rope(
    config: dict[str, Any], entries: dict[str, int | float | str], divisors: dict[str, list[float]]
) -> None:
    """Put the scaling of rotary embeddings into a configuration: of Gemma 3's only those over the whole text."""
    parameters = config["rope_parameters"]
    scaled = parameters.get("full_attention", parameters)
    scaled.update(rope_scaling(entries, divisors, float(scaled["rope_theta"])))
    if scaled.get("rope_type") == "longrope":  # of Phi-3, which reads it at the top
        config["original_max_position_embeddings"] = scaled["original_max_position_embeddings"]


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
