"""The language model of a checkpoint that sees images too, as a checkpoint of its own.

Its weights are copied, under the names that they have in a model of text alone; the rest is left out.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from orchestrator.model.checkpoint_files import INDEXES, LONGEST_HEADER_BYTES, weight_files
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.json_file import read_object
from orchestrator.model.safetensors_file import encode_header, read_header
from orchestrator.model.weights import Source

TEXT_MODELS = {
    ("Gemma3ForConditionalGeneration", "gemma3_text"): "Gemma3ForCausalLM",
    ("Mistral3ForConditionalGeneration", "mistral"): "MistralForCausalLM",
    ("Mistral3ForConditionalGeneration", "ministral3"): "Ministral3ForCausalLM",
    ("Qwen3_5ForConditionalGeneration", "qwen3_5_text"): "Qwen3_5ForCausalLM",
}
"""By architecture, and the type of the configuration of its text part."""
_PREFIXES = (("language_model.", ""), ("model.language_model.", "model."), ("lm_head.", "lm_head."))
"""How names of the text part begin, and how they do where there is text alone."""
_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def text_architecture(checkpoint: Path) -> str:
    """The architecture of a checkpoint's language model; its own where it is nothing else."""
    config = read_object(checkpoint / "config.json")
    own = str((config.get("architectures") or ["none"])[0])
    return TEXT_MODELS.get((own, str((config.get("text_config") or {}).get("model_type"))), own)


def text_part(checkpoint: Path, folder: Path, what: str) -> Path:
    """The checkpoint to convert: itself, or what is made in ``folder`` of one that sees images too.

    Args:
        what: the source, for messages.

    Raises:
        UnsupportedModel: its weights are not safetensors.
    """
    config, architecture = read_object(checkpoint / "config.json"), text_architecture(checkpoint)
    if architecture in config["architectures"]:
        return checkpoint
    files = weight_files(checkpoint)
    if any(file.suffix != ".safetensors" for file in files):
        raise UnsupportedModel(f"{what}: its weights are not safetensors; take a checkpoint that has them so")
    folder.mkdir(parents=True, exist_ok=True)
    for file in checkpoint.iterdir():
        if file.suffix in _SUFFIXES and "safetensors" not in file.name:
            shutil.copyfile(file, folder / file.name)
    places: dict[str, str] = {}
    for index, file in enumerate(files):
        target = folder / f"model-text-{index:05d}.safetensors"
        places |= dict.fromkeys(_copy_text_weights(file, target), target.name)
    (folder / INDEXES[0]).write_text(json.dumps({"metadata": {}, "weight_map": places}), "utf-8")
    # The two configurations may differ in this; the weights tell.
    tied = {"tie_word_embeddings": "lm_head.weight" not in places}
    made = config["text_config"] | tied | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(made), "utf-8")
    return folder


def _copy_text_weights(file: Path, target: Path) -> list[str]:
    """Write the weights of the text part into ``target``; returns their names there."""
    with file.open("rb") as source:
        entries, begin = read_header(source, LONGEST_HEADER_BYTES)
    kept = {new: entry for name, entry in entries.items() if (new := _text_name(name)) is not None}
    places, position = [], 0
    for name, entry in kept.items():
        start, end = entry["data_offsets"]
        places.append(Source(name, file, begin + start, end - start, b""))
        entry["data_offsets"] = [position, position + end - start]
        position += end - start
    with target.open("wb") as out:
        out.write(encode_header(kept))
        for place in places:
            out.writelines(place.pieces())
    return list(kept)


def _text_name(name: str) -> str | None:
    return next((new + name.removeprefix(old) for old, new in _PREFIXES if name.startswith(old)), None)
