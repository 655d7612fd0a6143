"""Blobs on a node's disk: fetched over HTTP with Range and resume, checked by SHA-256, kept until room is needed."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import http.client
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path

from edge_node.errors import BlobDamaged, BlobUnavailable, StorageFull
from edge_node.storage.blob_access import BlobAccess
from edge_node.storage.blob_files import blob_files, sweep
from edge_node.storage.budget import StorageBudget
from schemas.back_off import back_off_s, out_of_step
from schemas.messages import BlobRef

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 1 << 20
_GRACE_S, _LEAST_RATE = 30.0, 4_000.0
"""A server has to send so many bytes a second, but for the first seconds. What has arrived stays for the next try."""
_TRIES_PER_URL = 5
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0
_STANDBY, _IN_USE, _NEVER = 1, 2, 3
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class BlobStore:
    """A directory of blobs named by their SHA-256; partial downloads end in ``.part``.

    One transfer at a time: two would write to the same files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        limit_bytes: int | None,
        access: BlobAccess | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``limit_bytes``: see `StorageBudget`. ``access``: to blob servers; any, without TLS, where it is None."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        sweep(directory)
        self._budget = StorageBudget(directory, limit_bytes)
        self._access = access or BlobAccess()
        self._sleep = sleep
        self._transferring = threading.Lock()
        self._used: dict[Hashable, frozenset[str]] = {}
        self._standby: dict[str, tuple[BlobRef, ...]] = {}
        self.fetched_bytes = 0
        """Since it was made, those of transfers that broke included."""

    @property
    def limit_bytes(self) -> int:
        """How much may be stored, as the disk is now."""
        return self._budget.limit_bytes(self.used_bytes())

    def path(self, sha256: str) -> Path:
        """Where the blob is or will be."""
        return self.directory / sha256

    def used_bytes(self) -> int:
        """Size of all files, partial ones included; 0 where somebody has removed the directory."""
        try:
            return sum(_size_bytes(path) for path in blob_files(self.directory))
        except FileNotFoundError:
            return 0

    def use(self, user: Hashable, blobs: Iterable[BlobRef]) -> None:
        """Note that ``user`` needs these blobs, and no others any more; blobs in use are deleted last."""
        others = {key: used for key, used in self._used.items() if key != user}
        used, before = frozenset(blob.sha256 for blob in blobs), self._used.get(user, frozenset())
        self._used = {**others, user: used} if used else others
        for sha256 in used | before:
            self._touch(sha256)

    def _touch(self, sha256: str) -> None:
        """Note that a blob is used: its file's times say when that was last. Systems note no reading, most of them."""
        with contextlib.suppress(OSError):
            os.utime(self.path(sha256))

    def stand_by(self, pipeline: str, blobs: Iterable[BlobRef]) -> None:
        """Keep these blobs for a pipeline, once they are here, until a segment needs their room."""
        self._standby = {**self._standby, pipeline: tuple(blobs)}

    def is_standby(self, sha256: str) -> bool:
        """Is the blob to be kept on standby?"""
        return any(blob.sha256 == sha256 for blobs in self._standby.values() for blob in blobs)

    def standby_bytes(self) -> int:
        """Bytes that are here of the blobs to be kept on standby."""
        kept = {blob for blobs in self._standby.values() for blob in blobs}
        return sum(blob.size_bytes for blob in kept if self._is_here(blob))

    def fetch(
        self,
        blobs: Sequence[BlobRef],
        urls: Sequence[str],
        *,
        on_progress: Callable[[int, int], None],
        background: bool = False,
    ) -> int:
        """Bring all ``blobs`` to disk and return the number of bytes that had to be fetched.

        A blob on disk is read again, and fetched again if it is not what it was: disks and memory do flip bits. Room is
        made by deleting what nobody needs, then standby blobs, then others. In the background nothing but the first,
        what fails is not tried again, and a blob counts as here by name and length.

        Raises:
            BlobUnavailable: no URL gave the right bytes.
            StorageFull: they do not fit, even with every blob deleted that may be.

        What ``on_progress`` raises ends the transfer; what has arrived stays for the next time.
        """
        with self._transferring:
            return self._fetch(blobs, urls, on_progress, background)

    def _fetch(
        self, blobs: Sequence[BlobRef], urls: Sequence[str], on_progress: Callable[[int, int], None], background: bool
    ) -> int:
        wanted = {blob.sha256: blob for blob in blobs}
        total = sum(blob.size_bytes for blob in wanted.values())
        missing, done = [], 0
        for blob in wanted.values():
            report = functools.partial(_report, on_progress, done, total)
            if self._is_here(blob) and (background or self._is_intact(blob, report)):
                done += blob.size_bytes
            else:
                missing.append(blob)
        self.directory.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        self._make_room(missing, wanted.keys(), only_spare=background)
        on_progress(done, total)
        fetched = 0
        for blob in missing:
            report = functools.partial(_report, on_progress, done, total)
            try:
                fetched += self._fetch_one(blob, urls, report, tries=1 if background else _TRIES_PER_URL)
            except StorageFull:  # others fill the disk: what nobody needs may be enough room
                if background or not self._delete(wanted.keys()):
                    raise
                fetched += self._fetch_one(blob, urls, report, tries=_TRIES_PER_URL)
            done += blob.size_bytes
        return fetched

    def _is_here(self, blob: BlobRef) -> bool:
        path = self.path(blob.sha256)
        return path.is_file() and _size_bytes(path) == blob.size_bytes

    def _is_intact(self, blob: BlobRef, on_progress: Callable[[int], None]) -> bool:
        """Has it the bytes that it had when it was written? If not it is deleted."""
        path = self.path(blob.sha256)
        if _sha256_of(path, on_progress) == blob.sha256:
            return True
        _log.warning("blob %s is damaged on this device's disk: it is fetched again", blob.sha256[:12])
        path.unlink()
        return False

    def _part(self, blob: BlobRef) -> Path:
        return self.directory / f"{blob.sha256}.part"

    def _make_room(self, missing: Iterable[BlobRef], wanted: Collection[str], *, only_spare: bool) -> None:
        needed = sum(blob.size_bytes - _size_bytes(self._part(blob)) for blob in missing)
        stored, limit = self.used_bytes(), self.limit_bytes
        below, excess = _STANDBY if only_spare else _NEVER, stored + needed - limit
        if excess <= 0:
            return
        removable = self._removable(wanted, below=below)
        spare = sum(path.stat().st_size for path in removable)
        if excess <= spare:
            self._free(excess, removable)
        else:  # and nothing is deleted in vain
            excess -= spare
            raise StorageFull(
                f"the blobs need {excess} bytes more than the storage limit of {limit} bytes: make room at"
                f" {self.directory}, raise --storage-limit-mb, or choose another folder with --home"
            )

    def _free(self, size_bytes: int, paths: Sequence[Path]) -> None:
        """Delete files, the first ones first, until so many bytes are free."""
        for path in paths:
            if size_bytes <= 0:
                break
            size_bytes -= path.stat().st_size
            path.unlink()

    def give_back(self) -> None:
        """Delete files that nobody needs, those used longest ago first, where they are beyond the limit: the owner's,
        which may be lower than it was, or what is to stay free on a disk that others fill."""
        if not self._transferring.acquire(blocking=False):
            return  # it makes room for itself
        try:
            if (excess := self._budget.excess_bytes(self.used_bytes())) > 0:
                self._free(excess, self._removable((), below=_STANDBY))
        except OSError as error:
            _log.warning("%s can't be tidied up: %s", self.directory, error.strerror)
        finally:
            self._transferring.release()

    def _removable(self, wanted: Collection[str], *, below: int) -> list[Path]:
        """Files worth less than ``below`` that are not ``wanted``, those that are needed least first."""
        found = []
        for path in blob_files(self.directory):
            sha256 = path.name.removesuffix(".part")
            if sha256 not in wanted and (worth := self._worth(sha256)) < below:
                found.append((worth, path.stat().st_mtime, path))
        return [path for _, _, path in sorted(found)]

    def _delete(self, wanted: Collection[str]) -> int:
        """Delete all that no segment needs; how many bytes that were."""
        freed = 0
        for path in self._removable(wanted, below=_IN_USE):
            freed += path.stat().st_size
            path.unlink()
        return freed

    def _worth(self, sha256: str) -> int:
        """The rank of a blob: the higher, the later it is deleted."""
        return _IN_USE if any(sha256 in used for used in self._used.values()) else int(self.is_standby(sha256))

    def _fetch_one(self, blob: BlobRef, urls: Sequence[str], on_progress: Callable[[int], None], *, tries: int) -> int:
        problem = "no blob server was named"
        level = logging.WARNING if tries > 1 else logging.DEBUG
        for attempt in range(tries if urls else 0):
            if attempt:
                self._sleep(out_of_step(back_off_s(_FIRST_PAUSE_S, attempt - 1, _LONGEST_PAUSE_S)))
                on_progress(_size_bytes(self._part(blob)))
            for url in urls:
                try:
                    return self._download(blob, f"{url}/{blob.sha256}", on_progress)
                except BlobDamaged as error:  # trying again does not mend it
                    raise BlobDamaged(
                        f"the orchestrator's file {blob.sha256[:12]} is damaged: 'linguabus model verify' there says"
                        " what to do"
                    ) from error
                except (OSError, http.client.HTTPException, BlobUnavailable) as error:
                    if isinstance(error, OSError) and error.errno in _NO_SPACE:
                        raise StorageFull(
                            f"{self.directory} can't be written ({error.strerror}): make room there, or choose another"
                            " folder with --home"
                        ) from error
                    problem = f"{url}: {error}"
                    _log.log(level, "blob %s try %d: %s", blob.sha256[:12], attempt + 1, problem)
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
        fetched, waited_s = 0, 0.0
        with (
            self._access.open(url, offset, blob.size_bytes) as (response, begin),
            part.open("ab" if begin else "wb") as file,
        ):
            length = file.tell()
            while length < blob.size_bytes:
                asked_s = time.monotonic()
                data = response.read1(min(_CHUNK_BYTES, blob.size_bytes - length))
                waited_s += time.monotonic() - asked_s
                if not data:
                    raise BlobUnavailable(f"the connection ended after {length} of {blob.size_bytes} bytes")
                file.write(data)
                length += len(data)
                fetched += len(data)
                self.fetched_bytes += len(data)
                on_progress(length)
                if waited_s > _GRACE_S + fetched / _LEAST_RATE:
                    raise BlobUnavailable(f"the server sent {fetched} bytes in {waited_s:.0f} s")
        return fetched


def _report(on_progress: Callable[[int, int], None], before: int, total: int, part: int) -> None:
    on_progress(before + part, total)


def _size_bytes(path: Path) -> int:
    """The size of a file, 0 where there is none: the thread that loads renames and deletes files at any time."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sha256_of(path: Path, on_progress: Callable[[int], None] = lambda _: None) -> str:
    """``on_progress`` is told how many bytes have been read."""
    digest, piece, done = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES)), 0
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(piece[:size])
            done += size
            on_progress(done)
    return digest.hexdigest()
