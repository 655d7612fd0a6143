"""Give freed memory back to the system: glibc keeps it, a phone needs it."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Collect garbage and trim the heap; C libraries other than glibc have no malloc_trim and need none."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
