"""How many threads compute, and on which cores: tried with steps like those of decoding, once on each device.

A step multiplies one row with matrices of four bits that no cache holds, as most of a decode step does, and comes after
a pause, as a node waits for the others of its ring. More threads than help would only wake cores for nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from broker.private_file import write_private
from edge_node.runtime import graph_writer
from edge_node.runtime.session import CPU, session_options

CANDIDATES = (1, 2, 4)
NEAR_BEST = 1.05
"""The fewest threads are taken whose steps take no longer than this share of the shortest."""
FILE = "threads.json"
_BIG_SHARE = 0.5
"""Of the largest core's capacity, or clock: smaller ones are for other work."""
_ROUNDS, _STEPS, _PAUSE_S = 2, 9, 0.002
_MATRICES, _WIDTH, _BLOCK = 8, 2048, 32
"""16 MB in four bits."""

_log = logging.getLogger(__name__)
Measure = Callable[[int], float]
"""Seconds of a step with so many threads."""


def choose_threads(home: Path) -> int:
    """How many threads to compute with, on the large cores; what was found is kept in the node's home."""
    cores = big_cores(Path("/sys/devices/system/cpu"), usable_cores())
    stay_on(cores)
    device = _fingerprint(cores)
    if (known := _kept(home / FILE, device)) is not None:
        return known
    counts = [count for count in CANDIDATES if count <= len(cores)] or [1]
    times_s = {counts[0]: 0.0} if len(counts) == 1 else measured(counts, step_s)
    threads = fewest_near_best(times_s)
    said = ", ".join(f"{count}: {time_s * 1e3:.2f} ms" for count, time_s in times_s.items())
    _log.info("computes with %d threads on %d large cores (a step with so many threads: %s)", threads, len(cores), said)
    with contextlib.suppress(OSError):  # it is tried again next time
        write_private(home / FILE, json.dumps({"device": device, "threads": threads}))
    return threads


def usable_cores() -> frozenset[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def big_cores(folder: Path, usable: frozenset[int]) -> frozenset[int]:
    """The large ones of the usable cores, by what the kernel says of each in a folder; all where it does not tell."""
    sizes = {core: _size(folder / f"cpu{core}") for core in usable}
    largest = max(sizes.values(), default=0)
    return frozenset(core for core, size in sizes.items() if size >= _BIG_SHARE * largest)


def _size(core: Path) -> int:
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        try:
            return int((core / name).read_text())
        except (OSError, ValueError):
            continue
    return 0


def stay_on(cores: Iterable[int]) -> None:
    """Let this thread, and those that it starts, run on these cores only, where the system allows that."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError, ValueError):
            os.sched_setaffinity(0, cores)


def measured(counts: Iterable[int], measure: Measure) -> dict[int, float]:
    """The shortest times of a step by number of threads, in turn: a processor is slow or quick for a while."""
    times_s: dict[int, float] = {}
    for _ in range(_ROUNDS):
        for count in counts:
            times_s[count] = min(times_s.get(count, float("inf")), measure(count))
    return times_s


def fewest_near_best(times_s: Mapping[int, float]) -> int:
    """The fewest threads whose steps take hardly longer than the shortest."""
    most_s = NEAR_BEST * min(times_s.values())
    return min(count for count, time_s in times_s.items() if time_s <= most_s)


def step_s(threads: int) -> float:
    """The median time of a step with so many threads."""
    session = ort.InferenceSession(_matrices(), session_options(threads), providers=[CPU])
    row = {"x0": np.ones((1, _WIDTH), np.float32)}
    times_s = []
    for _ in range(_STEPS):
        time.sleep(_PAUSE_S)
        began_s = time.perf_counter()
        session.run(None, row)
        times_s.append(time.perf_counter() - began_s)
    return statistics.median(times_s)


def _matrices() -> bytes:
    """A model of some matrices in four bits, one after the other."""
    generator = np.random.default_rng(0)
    blocks = _WIDTH // _BLOCK
    nodes, weights = [], []
    attributes = {"K": _WIDTH, "N": _WIDTH, "bits": 4, "block_size": _BLOCK, "accuracy_level": 4}
    for number in range(_MATRICES):
        shape = (_WIDTH, blocks, _BLOCK // 2)
        packed = generator.integers(0, 256, shape, np.uint8).tobytes()
        scales = np.full(_WIDTH * blocks, 1e-3, np.float32).tobytes()
        weights.append(graph_writer.tensor(f"w{number}", graph_writer.UINT8, shape, packed))
        weights.append(graph_writer.tensor(f"s{number}", graph_writer.FLOAT, (_WIDTH * blocks,), scales))
        inputs = (f"x{number}", f"w{number}", f"s{number}")
        nodes.append(graph_writer.node("MatMulNBits", inputs, (f"x{number + 1}",), attributes))
    ends = [graph_writer.value(name, graph_writer.FLOAT, (1, _WIDTH)) for name in ("x0", f"x{_MATRICES}")]
    return graph_writer.model(nodes, ends[:1], ends[1:], weights)


def _fingerprint(cores: Iterable[int]) -> str:
    return f"{platform.machine()}, cores {sorted(cores)}, ONNX Runtime {ort.__version__}"


def _kept(path: Path, device: str) -> int | None:
    """What was found on this very device; None where nothing was, or the file is damaged."""
    try:
        kept = json.loads(path.read_text())
        threads = kept["threads"] if kept["device"] == device else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) and threads in CANDIDATES else None
