"""The language model of a checkpoint that sees images too, as a checkpoint of its own.

Its weights are copied, under the names that they have in a model of text alone; the rest is left out.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.model.checkpoint_files import INDEXES, weight_files
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.json_file import read_object

TEXT_MODELS = {
    ("Gemma3ForConditionalGeneration", "gemma3_text"): "Gemma3ForCausalLM",
    ("Mistral3ForConditionalGeneration", "mistral"): "MistralForCausalLM",
    ("Mistral3ForConditionalGeneration", "ministral3"): "Ministral3ForCausalLM",
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
    for index, file in enumerate(files):
        _copy_text_weights(file, folder / f"model-text-{index:05d}.safetensors")
    places = _places(folder)
    (folder / INDEXES[0]).write_text(json.dumps({"metadata": {}, "weight_map": places}), "utf-8")
    # The two configurations may differ in this; the weights tell.
    tied = {"tie_word_embeddings": "lm_head.weight" not in places}
    made = config["text_config"] | tied | {"architectures": [architecture]}
    (folder / "config.json").write_text(json.dumps(made), "utf-8")
    return folder


def _copy_text_weights(file: Path, target: Path) -> None:
    """Header length u64, header as JSON with the place of each tensor, then their bytes."""
    with file.open("rb") as source, target.open("wb") as out:
        (length,) = struct.unpack("<Q", source.read(8))
        header: dict[str, dict[str, Any]] = json.loads(source.read(length))
        header.pop("__metadata__", None)
        kept = {new: entry for name, entry in header.items() if (new := _text_name(name)) is not None}
        places, position = [], 0
        for entry in kept.values():
            begin, end = entry["data_offsets"]
            places.append((8 + length + begin, end - begin))
            entry["data_offsets"] = [position, position + end - begin]
            position += end - begin
        written = json.dumps({"__metadata__": {"format": "pt"}, **kept}).encode()
        out.write(struct.pack("<Q", len(written)) + written)
        for begin, size in places:
            source.seek(begin)
            _copy(source, out, size)


def _copy(source: BinaryIO, out: BinaryIO, size_bytes: int) -> None:
    while size_bytes:
        piece = source.read(min(size_bytes, 16 << 20))
        out.write(piece)
        size_bytes -= len(piece)


def _text_name(name: str) -> str | None:
    return next((new + name.removeprefix(old) for old, new in _PREFIXES if name.startswith(old)), None)


def _places(folder: Path) -> dict[str, str]:
    """The file of each weight."""
    names: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as source:
            (length,) = struct.unpack("<Q", source.read(8))
            names |= dict.fromkeys(json.loads(source.read(length)).keys() - {"__metadata__"}, file.name)
    return names
