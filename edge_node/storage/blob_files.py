"""Which files of a store's folder are blobs, whole or in part, and which somebody only has there for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SCRATCH_SUFFIX = ".scratch"
"""Of files that are there for a moment beside the blobs: ONNX Runtime reads only what is in a graph's folder."""


def blob_files(folder: Path) -> Iterator[Path]:
    """Blobs and partial ones.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    return (Path(entry) for entry in os.scandir(folder) if not entry.name.endswith(SCRATCH_SUFFIX))


def sweep(folder: Path) -> None:
    """Delete what a process left that was killed."""
    for path in folder.glob(f"*{SCRATCH_SUFFIX}"):
        path.unlink(missing_ok=True)
