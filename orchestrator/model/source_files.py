"""What lies in a model's folder that somebody else has made: files of a sensible size, no links to others' files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.model.errors import BrokenModel

MOST_BYTES = {"tokenizer.json": 256 << 20, ".model": 64 << 20, ".txt": 64 << 20, ".json": 64 << 20, ".jinja": 1 << 20}
"""By name or ending, of files that are read as a whole. The largest vocabularies take 40 MB."""
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def check_folder(*folders: Path) -> None:
    """Check what lies in folders before anything of it is read.

    Raises:
        BrokenModel: a file is too large, or a link leads to a file of somebody else's.
    """
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_symlink() and leads_out(path, folders):
                raise BrokenModel(
                    f"{path} is a link to a file elsewhere: put the file itself there, if it is the model's"
                )
            check_size(path)


def check_size(path: Path) -> None:
    """Raise `BrokenModel` for a file that would be read as a whole and is too large for that."""
    most_bytes = MOST_BYTES.get(path.name, MOST_BYTES.get(path.suffix))
    if most_bytes is not None and path.is_file() and (size := path.stat().st_size) > most_bytes:
        raise BrokenModel(
            f"{path} has {size / 1e6:,.0f} MB, and {most_bytes / 1e6:.0f} MB are the most: it is no model's"
        )


def leads_out(path: Path, folders: Iterable[Path]) -> bool:
    """Is this a file outside of these folders, and outside of the cache that Hugging Face's library keeps them in?"""
    allowed = [folder.resolve() for folder in folders]
    for folder in tuple(allowed):
        snapshot = next((one for one in (folder, *folder.parents) if one.parent.name == _SNAPSHOTS), None)
        if snapshot is not None:
            allowed.append(snapshot.parent.parent / _BLOBS)
    target = path.resolve()
    return not any(target.is_relative_to(folder) for folder in allowed)
