"""What is read again and again: its last value, whoever asks, however long a reading takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edge_node.telemetry.reading import Reading
from edge_node.telemetry.system_command import NoReading
from tests.support.polling import DEADLINE_S


def test_whoever_asks_while_it_hangs_gets_the_value_before() -> None:
    hangs, entered = threading.Event(), threading.Event()

    def read() -> int:
        entered.set()
        hangs.wait(DEADLINE_S)
        return 2

    heard = threading.Event()
    reading = Reading(read, 1, name="test", every_s=DEADLINE_S, heard=lambda _: heard.set())
    try:
        assert entered.wait(DEADLINE_S)
        assert reading.value == reading.await_first(0.0) == 1
        hangs.set()
        assert heard.wait(DEADLINE_S)
        assert reading.await_first(DEADLINE_S) == 2
    finally:
        hangs.set()
        reading.close()


@pytest.mark.parametrize("error", [NoReading("nothing"), OSError("gone"), ValueError("nonsense")])
def test_without_a_reading_the_last_value_stays(error: Exception) -> None:
    values: Iterator[int] = iter((1, 2))

    def read() -> int:
        if (value := next(values)) == 2:
            failed.set()
            raise error
        return value

    failed = threading.Event()
    reading = Reading(read, 0, name="test", every_s=DEADLINE_S)
    try:
        assert reading.await_first(DEADLINE_S) == 1
        reading.hurry()
        assert failed.wait(DEADLINE_S)
        assert reading.value == 1
    finally:
        reading.close()
