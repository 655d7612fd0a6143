"""Blobs on a node's disk: fetched over HTTP with Range and resume, checked by SHA-256, kept until room is needed."""

from __future__ import annotations

import functools
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge_node.errors import BlobUnavailable, StorageFull
from schemas.messages import BlobRef

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 20.0
_TRIES_PER_URL = 3


class BlobStore:
    """A directory of blobs named by their SHA-256; partial downloads end in ``.part``."""

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the blob is or will be."""
        return self.directory / sha256

    def used_bytes(self) -> int:
        """Size of all files, partial ones included."""
        return sum(_size_bytes(Path(entry)) for entry in os.scandir(self.directory))

    def fetch(self, blobs: Sequence[BlobRef], urls: Sequence[str], *, on_progress: Callable[[int, int], None]) -> int:
        """Bring all ``blobs`` to disk and return the number of bytes that had to be fetched.

        A blob on disk is trusted by name and length: it was checked when it was written, and renamed only then.

        Raises:
            BlobUnavailable: no URL gave the right bytes.
            StorageFull: they do not fit, even with every other blob deleted.

        What ``on_progress`` raises ends the transfer; what has arrived stays for the next time.
        """
        wanted = {blob.sha256: blob for blob in blobs}
        total = sum(blob.size_bytes for blob in wanted.values())
        missing = [blob for blob in wanted.values() if not self._is_here(blob)]
        self._make_room(missing, keep=wanted.keys())
        done = total - sum(blob.size_bytes for blob in missing)
        on_progress(done, total)
        fetched = 0
        for blob in missing:
            fetched += self._fetch_one(blob, urls, functools.partial(_report, on_progress, done, total))
            done += blob.size_bytes
        return fetched

    def _is_here(self, blob: BlobRef) -> bool:
        path = self.path(blob.sha256)
        return path.is_file() and _size_bytes(path) == blob.size_bytes

    def _part(self, blob: BlobRef) -> Path:
        return self.directory / f"{blob.sha256}.part"

    def _make_room(self, missing: Iterable[BlobRef], keep: Iterable[str]) -> None:
        needed = sum(blob.size_bytes - _size_bytes(self._part(blob)) for blob in missing)
        excess = self.used_bytes() + needed - self.limit_bytes
        kept = set(keep)
        removable = [entry for entry in self.directory.iterdir() if entry.name.removesuffix(".part") not in kept]
        for entry in sorted(removable, key=lambda entry: entry.stat().st_atime):
            if excess <= 0:
                return
            excess -= entry.stat().st_size
            entry.unlink()
        if excess > 0:
            raise StorageFull(f"the blobs need {excess} bytes more than the storage limit of {self.limit_bytes} bytes")

    def _fetch_one(self, blob: BlobRef, urls: Sequence[str], on_progress: Callable[[int], None]) -> int:
        problem = "no blob server was named"
        for attempt in range(_TRIES_PER_URL):
            for url in urls:
                try:
                    return self._download(blob, f"{url}/{blob.sha256}", on_progress)
                except (OSError, http.client.HTTPException, BlobUnavailable) as error:
                    problem = f"{url}: {error}"
                    _log.warning("blob %s try %d: %s", blob.sha256[:12], attempt + 1, problem)
        raise BlobUnavailable(f"blob {blob.sha256[:12]} can't be fetched: {problem}")

    def _download(self, blob: BlobRef, url: str, on_progress: Callable[[int], None]) -> int:
        part = self._part(blob)
        offset = _size_bytes(part)
        if offset > blob.size_bytes:
            part.unlink()
            offset = 0
        fetched = 0
        if offset < blob.size_bytes:
            fetched = self._transfer(blob, url, part, offset, on_progress)
        if _sha256_of(part) != blob.sha256:
            part.unlink()
            if offset:  # what another server sent before may be wrong, not what this one sends
                return self._download(blob, url, on_progress)
            raise BlobUnavailable("the bytes have another SHA-256")
        part.rename(self.path(blob.sha256))
        return fetched

    def _transfer(self, blob: BlobRef, url: str, part: Path, offset: int, on_progress: Callable[[int], None]) -> int:
        request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
        fetched = 0
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            resumed = response.status == http.client.PARTIAL_CONTENT
            with part.open("ab" if resumed else "wb") as file:
                length = file.tell()
                while data := response.read(_CHUNK_BYTES):
                    length += len(data)
                    if length > blob.size_bytes:
                        raise BlobUnavailable(f"the server sends more than {blob.size_bytes} bytes")
                    file.write(data)
                    fetched += len(data)
                    on_progress(length)
        if length < blob.size_bytes:
            raise BlobUnavailable(f"the connection ended after {length} of {blob.size_bytes} bytes")
        return fetched


def _report(on_progress: Callable[[int, int], None], before: int, total: int, part: int) -> None:
    on_progress(before + part, total)


def _size_bytes(path: Path) -> int:
    """0 where there is no file: the thread that loads renames and deletes files at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
