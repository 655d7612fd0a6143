"""Freed memory goes back to the system."""

from __future__ import annotations

import threading

import pytest

from broker import heap
from tests.support.polling import DEADLINE_S


def test_freed_memory_is_given_back_again_and_again_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr(heap, "trim", trimmed.release)
    with heap.trimming():
        assert trimmed.acquire(timeout=DEADLINE_S)
        assert trimmed.acquire(timeout=DEADLINE_S)
    assert "trim" not in {thread.name for thread in threading.enumerate()}
