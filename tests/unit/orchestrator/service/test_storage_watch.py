"""What operators are told of a database that can't be written."""

from __future__ import annotations

from orchestrator.service.storage_watch import StorageWatch


def test_a_failure_is_told_once_and_its_end_when_it_has_lasted() -> None:
    watch = StorageWatch("it is written again")

    def told(failure: str, now_s: float) -> list[str]:
        return [note.text for note in watch.look(failure, now_s)]  # type: ignore[union-attr]

    assert told("", 100.0) == []
    assert told("disk is full", 101.0) == ["disk is full"]
    assert told("disk is full", 102.0) == []
    assert told("", 103.0) == [], "small writes find room now and then"
    assert told("disk is full", 104.0) == []
    assert told("", 113.9) == []
    assert told("", 114.0) == ["it is written again"]
    assert told("disk is full", 200.0) == ["disk is full"]
