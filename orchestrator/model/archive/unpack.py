"""Read an archive of a model, which a stranger may have made, into a folder; nothing of it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from orchestrator.model.archive import tar
from orchestrator.model.archive.examine import examine
from orchestrator.model.archive.index import BLOBS, INDEX_FILE, MODEL, MOST_INDEX_BYTES, Index, Member
from orchestrator.model.errors import BrokenModel, UnsplittableGraph, UnsupportedModel
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import MANIFEST_FILE
from orchestrator.model.precision import AUTO
from orchestrator.model.progress import Progress
from orchestrator.model.room import require_room

SUFFIX = ".tar"


def archive_file(source: str) -> Path | None:
    """The file that ``source`` names if it is to be read as an archive of a model: it begins or is named like one."""
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # the system knows no such user
        return None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        begins = _begins_right(file)
    return path if begins or path.suffix.lower() == SUFFIX else None


def _begins_right(file: IO[bytes]) -> bool:
    return file.read(len(INDEX_FILE)) == INDEX_FILE.encode()


def check_wanted(manifest: Manifest, path: Path, precision: str, profile: str | None) -> None:
    """Check that an archive has what was asked for; raises `UnsupportedModel`."""
    for wanted, found in ((precision, manifest.precision), (profile, manifest.profile)):
        if wanted not in (None, AUTO, found):
            raise UnsupportedModel(f"{path} has a model in {found}: add it as it is, or export one in {wanted}")


def unpack(
    path: Path, partial: Path, blobs_folder: Path, accept: Callable[[Manifest], Manifest], progress: Progress
) -> Manifest:
    """Make ``partial/model`` and ``partial/blobs`` of an archive, in pieces of 4 MB.

    Args:
        blobs_folder: blobs that are whole there are read but not written again.
        accept: called with the manifest when all but the weights was examined; raises what speaks against it, or gives
            the manifest that the model is to have here, which is returned.

    Raises:
        BrokenModel: it is damaged, cut off, not an archive of a model, or one of a model that doesn't add up.
        UnsupportedModel: it is of another format.
        NoRoom: the disk is too full.
    """
    with path.open("rb") as file, _naming(path):
        index = _read_index(file, path)
        new = [m for m in index.members if not _may_be_there(m, blobs_folder)]
        require_room(partial, sum(m.size_bytes for m in new), f"{path} can't be unpacked")
        reader = _Reader(file, index.size_bytes, progress)
        for member in index.members[: len(index.members) - len(index.blobs)]:
            reader.copy(member, partial / MODEL / member.name.removeprefix(MODEL))
        manifest = examine(partial / MODEL, {m.sha256: m.size_bytes for m in index.blobs})
        manifest = accept(manifest)
        (partial / MODEL / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
        for member in index.blobs:
            is_there = _may_be_there(member, blobs_folder) and _sha256(blobs_folder / member.sha256) == member.sha256
            reader.copy(member, None if is_there else partial / BLOBS / member.sha256)
        if tar.read_header(file) is not None:
            raise BrokenModel("it has members that its index does not list")
    return manifest


class _Reader:
    """Reads the members of an archive one after the other."""

    def __init__(self, file: IO[bytes], total_bytes: int, progress: Progress) -> None:
        self._file = file
        self._done, self._total = 0, total_bytes
        self._progress = progress

    def copy(self, member: Member, target: Path | None) -> None:
        """Write the next member, which is to be ``member``, into the file ``target``; None: only check it."""
        if tar.read_header(self._file) != (member.name, member.size_bytes):
            raise BrokenModel(f"{member.name} is not where its index says")
        digest = hashlib.sha256()
        for piece in self._copied(tar.pieces(self._file, member.size_bytes), target):
            digest.update(piece)
            self._done += len(piece)
            self._progress("unpack", self._done, self._total)
        if digest.hexdigest() != member.sha256:
            raise BrokenModel(f"{member.name} is damaged, its SHA-256 is another")

    def _copied(self, pieces: Iterator[bytes], target: Path | None) -> Iterator[bytes]:
        if target is None:
            yield from pieces
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for piece in pieces:
                file.write(piece)
                yield piece


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have what is wrong with an archive begin with its name and end with what to do."""
    try:
        yield
    except (tar.TarError, BrokenModel, UnsplittableGraph) as error:
        raise BrokenModel(f"{path}: {error}; copy it again, or make it anew with linguabus model export") from error


def _read_index(file: IO[bytes], path: Path) -> Index:
    if not _begins_right(file):
        raise BrokenModel("it is not an archive of a model")
    file.seek(0)
    found = tar.read_header(file)
    if found is None or found[0] != INDEX_FILE:
        raise BrokenModel("it is not an archive of a model")
    if found[1] > MOST_INDEX_BYTES:
        raise BrokenModel(f"its index has {found[1]:,} bytes, where {MOST_INDEX_BYTES:,} are the most")
    return Index.from_json(b"".join(tar.pieces(file, found[1])).decode("utf-8", "replace"), str(path))


def _may_be_there(member: Member, blobs_folder: Path) -> bool:
    """Whether a member is a blob that is here already, as far as its size tells."""
    path = blobs_folder / member.sha256
    return member.name.startswith(BLOBS) and path.is_file() and path.stat().st_size == member.size_bytes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
