"""The weight files of a Hugging Face folder: are all there, whole, and in a form that can be converted."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from orchestrator.model.attention import check_head_size
from orchestrator.model.errors import BrokenModel, UnsupportedModel
from orchestrator.model.json_file import check_readable, read_object
from orchestrator.model.safetensors_file import check_entries, read_header

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)$")
_FILE = re.compile(r"[\w-][\w. -]{0,200}(\.safetensors|\.bin)", re.ASCII)
_POINTER = b"version https://git-lfs"
LONGEST_HEADER_BYTES = 100 << 20


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
            names = {str(name) for name in named.values()}
            if not all(_FILE.fullmatch(name) for name in names):
                raise BrokenModel(f"{path} names files that are not a model's: get it anew, from its authors")
            return _all_there(folder, names)
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
        UnsupportedModel: the weights are quantised in a way of their own, or heads have a size that nobody computes.
    """
    check_readable(folder)
    config = read_object(folder / "config.json")
    check_head_size(_head_size(config | (config.get("text_config") or {})), str(folder))
    quantised = config.get("quantization_config")
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
        else:
            _check_pickle(file)


def _head_size(config: dict[str, Any]) -> int:
    """Values of a head, 0 where the configuration does not say."""
    told, width = config.get("head_dim"), config.get("hidden_size") or config.get("n_embd")
    heads = config.get("num_attention_heads") or config.get("n_head")
    if isinstance(told, int):
        return told
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else 0


def _check_safetensors(file: Path) -> None:
    """Its header has to be one, and its last tensor has to end in it."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            entries, begin = read_header(stream, min(size, LONGEST_HEADER_BYTES))
        check_entries(entries, size - begin)
        end = begin + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenModel(f"{file} is not a safetensors file, or damaged; download it again") from error
    if end > size:
        raise BrokenModel(f"{file} ends before its last tensor ({size} of {end} bytes); download it again")


def _check_pickle(file: Path) -> None:
    """Torch writes its archives as they are; what is compressed could be any size."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            is_plain = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BrokenModel(f"{file} is not a file of torch's, or damaged; download it again") from error
    if not is_plain:
        raise BrokenModel(f"{file} is compressed, as torch does not write it: take another form of this model")
