"""From a ``.gguf`` file to a Hugging Face folder: config, float32 weights, tokenizer and chat template.

transformers reads GGUF but refuses to save a model that came from one, so the folder is written here. Run as
``python -m orchestrator.model.gguf FILE FOLDER``, in a process of its own because it holds the weights in memory.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from orchestrator.model.gguf_header import read_header

SHARD_BYTES = 2 << 30


def convert(source: Path, target: Path) -> None:
    """Write the Hugging Face folder ``target`` from the GGUF file ``source``."""
    import gguf
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # transformers parses the header, seconds of Python for a large vocabulary, anew for each thing it wants to know.
    setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))  # noqa: B010 - mypy takes it for a type
    folder, name = str(source.parent), source.name
    target.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(str(target))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config["architectures"] = [type(model).__name__]
    (target / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    ends = {"eos_token_id": list(read_header(source).end_ids)}  # of which transformers takes one only
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


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
