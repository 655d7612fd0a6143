"""The process's heap: huge pages for the weights, and pages of mapped files that were only read back to the system.

Every token reads all weights of a segment. In pages of 4 KiB that is a page walk every 4 KiB, and it leaves the tables
of what Python and the kernel do between two runs out of the caches. Measured: 10 to 20 % of both.

There is one arena then: glibc asks for nothing in the arenas of other threads, and segments are loaded by one. What is
to become resident as it is written, and no sooner, must not come from this heap.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb"
_WANTED = f"{_HUGE_PAGES}=1:glibc.malloc.arena_max=1"
_FIRST_GLIBC = (2, 35)
_KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def ask_for_huge_pages() -> None:
    """Start this process once more with glibc asking for huge pages, where the kernel gives them to who asks.

    Nothing happens elsewhere, nor where the variable GLIBC_TUNABLES already says something about huge pages.
    """
    tunables = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES in tunables or not sys.executable or not _gives_to_who_asks() or _glibc() < _FIRST_GLIBC:
        return
    os.environ[_TUNABLES] = ":".join(filter(None, (tunables, _WANTED)))
    with contextlib.suppress(OSError):  # it may be started, but not again: huge pages are no more than welcome
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _gives_to_who_asks() -> bool:
    try:
        return "[madvise]" in _KERNEL_SETTING.read_text()
    except OSError:
        return False


def _glibc() -> tuple[int, ...]:
    """The version of glibc; () where the C library is another."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return tuple(map(int, version.split("."))) if name == "glibc" else ()
    except (ValueError, AttributeError):
        return ()


def forget_peak() -> None:
    """Count the largest resident memory from now on, where the system lets a process do that (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def let_go_of_file_pages(folder: Path) -> None:
    """Drop the resident pages of mapped files of ``folder`` that were only read; who reads them gets them again.

    ONNX Runtime packs most weights into memory of its own when it opens a graph. It keeps the file mapped where rows
    are looked up, too, with all pages that it has read once. Linux only.
    """
    with contextlib.suppress(OSError, ValueError):
        _let_go(_unwritten_mappings(Path("/proc/self/smaps").read_text("utf-8", "replace"), folder))


def drop_pages(address: int, size_bytes: int) -> None:
    """Give back the pages that lie wholly in a part of memory that came from the system alone: it is all zeros then."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (address + size_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start:
        _let_go([(start, stop)])


def _let_go(ranges: Iterable[tuple[int, int]]) -> None:
    """Give the pages at these addresses back, where the system has a way to."""
    with contextlib.suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None, use_errno=True).madvise
        for start, stop in ranges:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)


def _unwritten_mappings(smaps: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Addresses of mappings of files in ``folder`` none of whose pages is a copy that this process has changed."""
    prefix, place, clean = f"{folder.resolve()}/", None, True
    for line in [*smaps.splitlines(), "0-0"]:
        first, *rest = line.split(maxsplit=5) or [""]
        if not first.endswith(":"):
            if place is not None and clean:
                yield place
            start, _, stop = first.partition("-")
            of_folder = len(rest) == 5 and rest[4].startswith(prefix)
            place, clean = (int(start, 16), int(stop, 16)) if of_folder else None, True
        elif first == "Anonymous:":
            clean = clean and rest[0] == "0"
