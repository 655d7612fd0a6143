"""The process's heap: huge pages for the weights, and freed memory back to the system.

Every token reads all weights of a segment. In pages of 4 KiB that is a page walk every 4 KiB, and it leaves the tables
of what Python and the kernel do between two runs out of the caches. Measured: 10 to 20 % of both.

There is one arena then: glibc asks for nothing in the arenas of other threads, and segments are loaded by one. What is
to become resident as it is written, and no sooner, must not come from this heap.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

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


def give_back() -> None:
    """Collect garbage and trim the heap: a phone needs it. C libraries other than glibc have no malloc_trim."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
