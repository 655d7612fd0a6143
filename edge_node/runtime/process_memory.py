"""This process's own memory by address, where the system shows it as a file (Linux, Android).

The kernel looks at each access: what is not there, or may not be written, is an error and not the end of the process.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

_MEMORY, _MAPS = Path("/proc/self/mem"), Path("/proc/self/maps")
LINE_BYTES = 64
"""Of memory, as caches have it."""
_WORD_BYTES = 4
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
        self._file = os.open(_MEMORY, os.O_RDWR)
        self._buffer = mmap.mmap(-1, _PIECE_BYTES + LINE_BYTES)
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
        for begin, stop in list(_writable()):
            if begin <= own < stop:
                continue
            for start in range(begin + -begin % LINE_BYTES, stop, _PIECE_BYTES):
                data = self.read(start, min(_PIECE_BYTES, stop - start))
                heads = np.frombuffer(data, np.uint32, len(data) // _WORD_BYTES)[:: LINE_BYTES // _WORD_BYTES]
                likely = np.flatnonzero(is_likely[heads >> (32 - _FILTER_BITS)])
                places = [int(place) for place in likely[np.isin(heads[likely], firsts)] * LINE_BYTES]
                for place, line in [(place, bytes(data[place : place + LINE_BYTES])) for place in places]:
                    if line in wanted:
                        yield start + place, line


def _writable() -> Iterator[tuple[int, int]]:
    """Where memory begins and ends that is no file's and may be written."""
    with contextlib.suppress(OSError):
        for line in _MAPS.read_text().splitlines():
            place, rights, _, _, _, *name = line.split(maxsplit=5)
            if rights.startswith("rw") and (not name or name[0] == "[heap]" or name[0].startswith("[anon")):
                begin, _, stop = place.partition("-")
                yield int(begin, 16), int(stop, 16)
