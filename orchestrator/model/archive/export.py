"""Write a model of a store into one file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.model.archive.index import BLOBS, INDEX_FILE, MODEL, MODEL_FILES, Index, Member
from orchestrator.model.archive.tar import END, header, padding, size_of
from orchestrator.model.errors import ArchiveExists, ModelFilesLost, NoSuchModel
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import MANIFEST_FILE, Model
from orchestrator.model.progress import Progress, silent
from orchestrator.model.room import require_room
from orchestrator.model.source import HUB_ID
from orchestrator.model.weights import checked_pieces


def export(model: Model, path: Path, *, force: bool = False, progress: Progress = silent) -> int:
    """Write an archive of ``model``; it has its name only when all of it is there. Returns its size in bytes.

    Args:
        force: replace a file that is there.

    Raises:
        ArchiveExists: there is a file of that name.
        NoSuchModel: there is no folder to write into.
        NoRoom: the disk is too full.
        BlobCorrupt: a blob of the model is damaged.
        ModelFilesLost: a file of the model is there no more.
    """
    _check_target(path, force)
    small = _small_files(model)
    blobs = [Member(f"{BLOBS}{b.sha256}", b.size_bytes, b.sha256) for b in model.manifest.blobs]
    described = [Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in small.items()]
    first = Index.of([*described, *blobs]).to_json().encode()
    whole = {INDEX_FILE: first, **small}
    total = size_of([*map(len, whole.values()), *(b.size_bytes for b in blobs)])
    require_room(path.parent, total, f"{path} can't be written")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    done = 0
    progress("export", 0, total)
    with contextlib.ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        with partial.open("wb") as file:
            for name, data in whole.items():
                file.write(header(name, len(data)) + data + padding(len(data)))
            for blob in blobs:
                file.write(header(blob.name, blob.size_bytes))
                for piece in _checked_pieces(model, blob):
                    file.write(piece)
                    done += len(piece)
                    progress("export", done, total)
                file.write(padding(blob.size_bytes))
            file.write(END)
        progress("export", total, total)
        _check_target(path, force)
        partial.replace(path)
    return total


def without_places(manifest: Manifest) -> Manifest:
    """A manifest without what is true of one machine only: of a source that is a file or folder, its name is kept."""
    is_hub_id = HUB_ID.match(manifest.source) and manifest.source_fingerprint.startswith("hub:")
    source = manifest.source if is_hub_id else Path(manifest.source).name
    return dataclasses.replace(manifest, source=source, fingerprint=manifest.source_fingerprint)


def _check_target(path: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise NoSuchModel(f"there is no folder {path.parent} to write {path.name} into; make it")
    if path.is_dir():
        raise ArchiveExists(f"{path} is a folder; name a file in it")
    if path.exists() and not force:
        raise ArchiveExists(f"{path} is there already; give another name, or --force to replace it")


def _small_files(model: Model) -> dict[str, bytes]:
    """By member: the files of a model's folder, of those that archives hold, as they will be written."""
    files = {MANIFEST_FILE: without_places(model.manifest).to_json().encode()}
    for name in MODEL_FILES:
        path = model.folder / name
        if name not in files and path.is_file():
            files[name] = path.read_bytes()
    return {f"{MODEL}{name}": data for name, data in files.items()}


def _checked_pieces(model: Model, blob: Member) -> Iterator[bytes]:
    try:
        yield from checked_pieces(model.blobs_folder, blob.sha256, blob.size_bytes, model.manifest.name)
    except FileNotFoundError as error:
        raise ModelFilesLost(model.manifest.name, blob.sha256) from error
