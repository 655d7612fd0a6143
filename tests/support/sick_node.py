"""A node with something wrong with it: ``python -m tests.support.sick_node KIND [options of a node]``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edge_node.cli import main
from edge_node.runtime.hidden_buffers import FloatsOut
from edge_node.runtime.segment import RunResult, Segment
from edge_node.runtime.segment_runner import SegmentRunner
from edge_node.telemetry import battery, control_group, device

EVERY = 5
"""One of so many runs goes wrong."""
CHUNK_TOKENS, CHUNK_S = 24, 3.5
HOARD_BYTES = 400_000_000
HANGING = (
    "/proc/meminfo", "/proc/pressure/memory", "/proc/self/mountinfo",
    "/sys/class/thermal/thermal_zone0/temp", "/sys/class/power_supply/battery/type",
)  # fmt: skip


def _some_runs(spoil: Callable[[RunResult], None]) -> None:
    """Spoil some runs of requests, none of known answers."""
    run, aside = Segment.run, Segment.aside
    state = {"runs": 0, "aside": 0}

    def sick_run(self: Segment, *arguments: Any, **options: Any) -> RunResult:
        result = run(self, *arguments, **options)
        if not state["aside"]:
            state["runs"] += 1
            if state["runs"] % EVERY == 0:
                spoil(result)
        return result

    @contextmanager
    def noted(self: Segment, context_tokens: int) -> Iterator[None]:
        state["aside"] += 1
        with aside(self, context_tokens):
            yield
        state["aside"] -= 1

    Segment.run, Segment.aside = sick_run, noted  # type: ignore[method-assign]


def computes_nan() -> None:
    """What it computes for requests is now and then not a number; its known answers are right."""

    def spoil(result: RunResult) -> None:
        result.output[...] = np.nan

    _some_runs(spoil)


def sends_nan() -> None:
    """Hidden states that it sends are not numbers, and it does not notice."""

    def give(self: FloatsOut, begin: int, count: int) -> bytes:
        return np.full((count, self._data.shape[1]), np.nan, np.float32).tobytes()

    FloatsOut.give = give  # type: ignore[method-assign]


def computes_for_long() -> None:
    """Chunks of a prompt take it seconds."""
    run = Segment.run

    def slow_run(self: Segment, slot: int, positions: Sequence[int], count: int, **options: Any) -> RunResult:
        result = run(self, slot, positions, count, **options)
        if count == CHUNK_TOKENS:  # that of requests, not that of known answers
            time.sleep(CHUNK_S)
            result = RunResult(result.output, result.compute_s + CHUNK_S)
        return result

    Segment.run = slow_run  # type: ignore[method-assign]


def crashes_on_load() -> None:
    """Its process dies of a signal whenever it opens a segment."""

    def crash(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    SegmentRunner._open = crash  # type: ignore[method-assign,assignment]


def takes_more_memory() -> None:
    """What it computes for requests leaves hundreds of megabytes behind."""
    kept: list[bytes] = []

    def hoard(_: RunResult) -> None:
        if not kept:
            kept.append(b"x" * HOARD_BYTES)

    _some_runs(hoard)


def is_asked_often() -> None:
    """Not sick: what its device says is known soon."""
    battery.TERMUX_INTERVAL_S = 0.1


def readers_hang() -> None:
    """Files of its device can be opened by nobody: they are pipes, in the folder "device" of its home."""
    root = Path(sys.argv[sys.argv.index("--home") + 1]) / "device"

    def redirected(path: str) -> Path:
        return root / path.removeprefix("/")

    for path in HANGING:
        redirected(path).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # a node starts this program once more
            os.mkfifo(redirected(path))
    for module in (battery, control_group, device):
        module.Path = redirected  # type: ignore[attr-defined]


KINDS = {kind.__name__: kind for kind in (
    computes_nan, sends_nan, computes_for_long, crashes_on_load, takes_more_memory, is_asked_often, readers_hang,
)}  # fmt: skip

if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    main()
