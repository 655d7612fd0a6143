"""Freed memory goes back to the system: C libraries keep it for later, which other programs of a small machine miss."""

from __future__ import annotations

import ctypes
import gc
from contextlib import AbstractContextManager

from broker.repeating import repeating

_TRIM_INTERVAL_S = 0.1


def trimming(every_s: float = _TRIM_INTERVAL_S) -> AbstractContextManager[None]:
    """Give freed memory back again and again meanwhile.

    Where ONNX Runtime brings matrices from one form to another, what is freed is between what is kept, and not always
    fits for the next: of blocks in halves up to a fifth of all. What a tokenizer of a large vocabulary leaves behind
    is a quarter of a gigabyte.
    """
    return repeating(trim, every_s=every_s, name="trim")


def give_back() -> None:
    """Collect garbage and trim the heap: a phone needs it."""
    gc.collect()
    trim()


def trim() -> None:
    """Give freed memory back; a collection would hold up other threads. C libraries other than glibc can't."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)
