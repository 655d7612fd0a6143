"""The JSON files beside a checkpoint: one object each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.model.errors import BrokenModel
from orchestrator.model.source_files import check_size


def read_object(path: Path) -> dict[str, Any]:
    """The object in ``path``; raises `BrokenModel`."""
    value = _read(path)
    if not isinstance(value, dict):
        raise BrokenModel(f"{path} is not a JSON object")
    return value


def read_optional(path: Path) -> dict[str, Any]:
    """The object in ``path``: empty without such a file, or when there is something else in it.

    Raises:
        BrokenModel: what is there is not JSON.
    """
    value = _read(path) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def check_readable(folder: Path) -> None:
    """Check the small JSON files of a folder, which others may trip over; raises `BrokenModel`."""
    for path in sorted(folder.glob("*.json")):
        if path.name != "tokenizer.json":  # large, and read by a library that minds depth itself
            read_optional(path)


def _read(path: Path) -> Any:
    check_size(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenModel(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise BrokenModel(f"{path} cannot be read: it is too deep") from error
