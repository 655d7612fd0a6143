"""The weight files of a Hugging Face folder: are all there, whole, and in a form that can be converted."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

from orchestrator.model.errors import BrokenModel, UnsupportedModel
from orchestrator.model.json_file import read_object

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)$")
_POINTER = b"version https://git-lfs"
_LONGEST_HEADER = 100 << 20


def weight_files(folder: Path) -> list[Path]:
    """The files with weights, by name; of several forms the one that transformers takes.

    Raises:
        BrokenModel: there are none, or one is missing; names it.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    for index in INDEXES:
        path = folder / index
        if path.is_file():
            named = read_object(path).get("weight_map")
            if not isinstance(named, dict) or not named:
                raise BrokenModel(f"{path} names no weights; download it again")
            return _all_there(folder, {str(name) for name in named.values()})
    for pattern in ("model*.safetensors", "*.safetensors", "pytorch_model*.bin"):
        found = sorted(folder.glob(pattern))
        parts = [match for file in found if (match := _PART.match(file.name))]
        if parts:
            count = int(parts[0][3])
            return _all_there(
                folder, {f"{parts[0][1]}-{n:05d}-of-{count:05d}{parts[0][4]}" for n in range(1, count + 1)}
            )
        if found:
            return found
    raise BrokenModel(f"{folder} has a config.json but no *.safetensors: download the weights too")


def _all_there(folder: Path, names: set[str]) -> list[Path]:
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BrokenModel(
            f"{folder} lacks {missing[0]}{more}, of {len(names)} files with weights: download all of them"
        )
    return sorted(folder / name for name in names)


def check_checkpoint(folder: Path) -> None:
    """Check, before anything is converted, what would otherwise be found after an hour or never.

    Raises:
        BrokenModel: a weight file is not whole.
        UnsupportedModel: the weights are quantised in a way of their own.
    """
    quantised = read_object(folder / "config.json").get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else quantised
        raise UnsupportedModel(
            f"{folder} has weights that are quantised already ({method}): take the checkpoint it was made of, or a GGUF"
        )
    for file in weight_files(folder):
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
        if start == _POINTER:
            raise BrokenModel(f"{file} is a Git LFS pointer, not the weights: run git lfs pull in its folder")
        if file.suffix == ".safetensors":
            _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    """Header length u64, header as JSON with the place of each tensor, then their bytes."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        end = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise BrokenModel(f"{file} is not a safetensors file, or damaged; download it again") from error
    if end > size:
        raise BrokenModel(f"{file} ends before its last tensor ({size} of {end} bytes); download it again")
