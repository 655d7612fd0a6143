"""How many threads a node takes, and on which cores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_node.runtime import thread_choice
from edge_node.runtime.thread_choice import FILE, big_cores, choose_threads, fewest_near_best, measured, step_s

FOUR = frozenset(range(4))


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ({1: 10.0, 2: 9.6, 4: 9.53}, 1),
        ({1: 10.0, 2: 9.5, 4: 9.3}, 2),
        ({1: 10.0, 2: 6.0, 4: 3.0}, 4),
        ({1: 10.0, 2: 6.0, 4: 30.0}, 2),
        ({1: 0.0}, 1),
    ],
)
def test_the_fewest_that_are_as_quick_are_taken(times_ms: dict[int, float], expected: int) -> None:
    assert fewest_near_best(times_ms) == expected


def test_a_slow_moment_does_not_decide() -> None:
    times = iter([9.0, 4.0, 5.0, 8.0])
    assert measured((1, 2), lambda _: next(times)) == {1: 5.0, 2: 4.0}


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("cpu_capacity", (250, 250, 870, 1024), {2, 3}),
        ("cpufreq/cpuinfo_max_freq", (900_000, 2_400_000, 2_400_000, 900_000), {1, 2}),
        ("cpu_capacity", (1024, 1024, 1024, 1024), {0, 1, 2, 3}),
        ("other", (1, 2, 3, 4), {0, 1, 2, 3}),
        ("cpu_capacity", ("?", 1024, 1024, 100), {1, 2}),
    ],
)
def test_large_cores(tmp_path: Path, name: str, sizes: tuple[object, ...], expected: set[int]) -> None:
    for core, size in enumerate(sizes):
        file = tmp_path / f"cpu{core}" / name
        file.parent.mkdir(parents=True)
        file.write_text(f"{size}\n")
    assert big_cores(tmp_path, FOUR) == expected


def test_a_step_is_computed() -> None:
    assert step_s(1) > 0
    assert step_s(2) > 0


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often steps were tried, on four cores of which none is moved to."""
    steps: list[int] = []

    def step(threads: int) -> float:
        steps.append(threads)
        return 1.0 / threads

    monkeypatch.setattr(thread_choice, "step_s", step)
    monkeypatch.setattr(thread_choice, "usable_cores", lambda: FOUR)
    monkeypatch.setattr(thread_choice, "big_cores", lambda *_: FOUR)
    monkeypatch.setattr(thread_choice, "stay_on", lambda _: None)
    return steps


def test_what_was_found_is_kept_for_this_device(
    tmp_path: Path, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_threads(tmp_path) == 4
    assert tried == [1, 2, 4] * 2
    assert choose_threads(tmp_path) == 4
    assert len(tried) == 6
    monkeypatch.setattr(thread_choice.ort, "__version__", "another")
    assert choose_threads(tmp_path) == 4
    assert len(tried) == 12


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"device": "?", "threads": 2}), "\xff"])
def test_what_can_not_be_used_is_found_anew(tmp_path: Path, tried: list[int], text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert choose_threads(tmp_path) == 4
    assert tried


def test_a_damaged_number_is_not_taken(tmp_path: Path, tried: list[int]) -> None:
    choose_threads(tmp_path)
    kept = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**kept, "threads": 64}))
    tried.clear()
    assert choose_threads(tmp_path) == 4
    assert tried


def test_a_single_core_needs_no_trial(tmp_path: Path, tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_choice, "big_cores", lambda *_: frozenset({3}))
    assert choose_threads(tmp_path) == 1
    assert not tried
