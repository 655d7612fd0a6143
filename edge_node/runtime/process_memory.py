"""This process's own memory by address, where the system shows it as a file (Linux, Android).

An address where nothing is is an error, not the end of the process. What may only be read is written nevertheless.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Hashable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_MEMORY, _MAPS, _PAGES = Path("/proc/self/mem"), Path("/proc/self/maps"), Path("/proc/self/pagemap")
LINE_BYTES = 64
"""Of memory, as caches have it."""
_WORD_BYTES = 4
_PAGE_ENTRY_BYTES = 8
_IS_THERE = 0b11 << 62
"""Bits of a page's entry: it is in memory, or was swapped out."""
_PIECE_BYTES = 1 << 20
_FILTER_BITS = 16
"""Of a line's first word, by which nearly all lines are told to be others."""


class ProcessMemory:
    """Open as long as the context lasts.

    What is read is in a buffer of its own, that is not searched and not aligned as what is sought for: so no copy of
    anything is left in memory that could be taken for it.

    Raises:
        OSError: the system has no such file, or does not let it be written.
    """

    def __enter__(self) -> Self:
        self._buffer = mmap.mmap(-1, _PIECE_BYTES + LINE_BYTES)
        self._file = os.open(_MEMORY, os.O_RDWR)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)

    def read(self, address: int, size_bytes: int) -> memoryview:
        """What is there, at most a megabyte, until the next call; less where it can't be read in full."""
        view = memoryview(self._buffer)[_WORD_BYTES : _WORD_BYTES + min(size_bytes, _PIECE_BYTES)]
        try:
            return view[: os.preadv(self._file, [view], address)]
        except OSError:
            return view[:0]

    def write(self, address: int, data: memoryview) -> None:
        """Write all of it.

        Raises:
            OSError: it can't be written in full.
        """
        if os.pwrite(self._file, data, address) != data.nbytes:
            raise OSError(f"memory at {address:#x} can't be written")

    def lines(self, wanted: Collection[bytes]) -> Iterator[tuple[int, bytes]]:
        """Addresses, multiples of ``LINE_BYTES``, of any of these lines in memory that may be written, and which it is.

        Args:
            wanted: each of ``LINE_BYTES`` bytes.
        """
        firsts = np.frombuffer(b"".join(line[:_WORD_BYTES] for line in wanted), np.uint32)
        is_likely = np.zeros(1 << _FILTER_BITS, bool)
        is_likely[firsts >> (32 - _FILTER_BITS)] = True
        own = np.frombuffer(self._buffer, np.uint8).ctypes.data
        known: dict[Hashable, bytes] = {line: line for line in wanted}
        for begin, stop in list(_writable()):
            if begin <= own < stop:
                continue
            for start in _written_places(begin, stop):
                data = self.read(start, min(_PIECE_BYTES, stop - start))
                heads = np.frombuffer(data, np.uint32, len(data) // _WORD_BYTES)[:: LINE_BYTES // _WORD_BYTES]
                likely = np.flatnonzero(is_likely[heads >> (32 - _FILTER_BITS)])
                places = [int(place) for place in likely[np.isin(heads[likely], firsts)] * LINE_BYTES]
                # Looked up as views: a copy of a line could have an address where it is found again.
                lines = [(place, known.get(data.toreadonly()[place : place + LINE_BYTES])) for place in places]
                for place, line in lines:
                    if line is not None:
                        yield start + place, line


def _writable() -> Iterator[tuple[int, int]]:
    """Where memory begins and ends that is no file's and may be written."""
    with contextlib.suppress(OSError):
        for line in _MAPS.read_text("utf-8", "replace").splitlines():
            place, rights, _, _, _, *name = line.split(maxsplit=5)
            if rights.startswith("rw") and (not name or name[0] == "[heap]" or name[0].startswith("[anon")):
                begin, _, stop = place.partition("-")
                yield int(begin, 16), int(stop, 16)


def _written_places(begin: int, stop: int) -> Iterator[int]:
    """Where the pieces of this memory begin that somebody has written to.

    A KV cache is mostly memory that nobody has touched, gigabytes of it: to read that takes a second for each, and page
    tables. Where the system does not tell, all of it.
    """
    pieces = range(begin, stop, _PIECE_BYTES)
    try:
        pages = _PAGES.open("rb", buffering=0)
    except OSError:
        yield from pieces
        return
    with pages:
        for start in pieces:
            pages.seek(start // mmap.PAGESIZE * _PAGE_ENTRY_BYTES)
            count = min(_PIECE_BYTES, stop - start) // mmap.PAGESIZE
            entries = np.frombuffer(pages.read(count * _PAGE_ENTRY_BYTES), np.uint64)
            if (entries & np.uint64(_IS_THERE)).any():
                yield start
