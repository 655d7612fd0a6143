"""A soak: faults for minutes that kill no process, and what each process holds before and after.

``python -m tests.faults.soak --minutes 30`` prints a table, and fails when something grows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from schemas.messages import PlanConstraints
from tests.faults.play import Worlds
from tests.faults.schedule import HOLD_TODAY, LONG, STARTED_AGAIN, Kind, make_schedule
from tests.support.fault_world import FaultWorld
from tests.support.polling import DEADLINE_S

KINDS = HOLD_TODAY - STARTED_AGAIN - {Kind.BROKER_RESTARTED, Kind.ORCHESTRATOR_REPLACED}
"""All processes live on: what grows in one does so for as long as the soak takes."""
WARM_UP = 0.3
"""Share of the time after which nothing is to grow any more."""
MOST_GROWTH = 0.05
"""Of memory."""
MOST_HANDLES = 4
MOST_THREADS = 2
OURSELVES = "readers, proxies"


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    rss_bytes: int
    threads: int
    handles: int


def at_rest(world: FaultWorld) -> dict[str, Held]:
    """What all processes hold with the layers in the same places each time, and nothing to do."""
    pins = tuple(zip(("embed", "0-14", "15-29", "head"), world.node_names, strict=True))
    with world.operator() as client:
        client.apply(PlanConstraints(pins=pins), timeout_s=DEADLINE_S)
        world.wait_until_idle()
        found = held(world)
        client.apply(PlanConstraints(), timeout_s=DEADLINE_S)
    return found


def held(world: FaultWorld) -> dict[str, Held]:
    """What all processes hold, this one too, whose threads are the readers and the proxies."""
    found = {}
    for name, pid in {**world.pids(), OURSELVES: os.getpid()}.items():
        process = psutil.Process(pid)
        with process.oneshot():
            found[name] = Held(process.memory_info().rss, process.num_threads(), process.num_fds())
    return found


def growth(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """What has grown too much, one line each."""
    found = [f"{name} is another process" for name in before.keys() ^ after.keys()]
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        # Our own memory is scattered over what hundreds of short threads had: no object is left of them.
        if name != OURSELVES and new.rss_bytes > (1 + MOST_GROWTH) * old.rss_bytes:
            found.append(f"{name}: memory grew from {old.rss_bytes / 1e6:.0f} to {new.rss_bytes / 1e6:.0f} MB")
        if new.threads > old.threads + MOST_THREADS:
            found.append(f"{name}: threads grew from {old.threads} to {new.threads}")
        if new.handles > old.handles + MOST_HANDLES:
            found.append(f"{name}: file handles grew from {old.handles} to {new.handles}")
    return found


def table(*columns: tuple[str, Mapping[str, Held]]) -> str:
    """What was held at some times, side by side."""
    lines = [" " * 18 + "".join(f"{title:>32}" for title, _ in columns)]
    for name in columns[0][1]:
        cells = [
            f"{one.rss_bytes / 1e6:9.1f} MB {one.threads:3} thr {one.handles:4} files" if one else "-"
            for one in (figures.get(name) for _, figures in columns)
        ]
        lines.append(f"{name:18}" + "".join(f"{cell:>32}" for cell in cells))
    return "\n".join(lines)


def soak(folder: Path, minutes: float, first_seed: int = 1) -> list[str]:
    """Play schedules for so long; what was lost, and what has grown."""
    wrong: list[str] = []
    with Worlds(folder) as worlds:
        world, _ = worlds.current()
        at_first, warm = at_rest(world), None
        begin_s = time.monotonic()
        played = answered = 0
        for seed in itertools.count(first_seed):
            report = worlds.play(make_schedule(seed, LONG, KINDS))
            played, answered = played + 1, answered + report.answered
            if report.wrong:
                return [str(report)]
            passed = (time.monotonic() - begin_s) / (60 * minutes)
            if warm is None and passed >= WARM_UP:
                warm = at_rest(world)
            if passed >= 1:
                break
        assert warm
        at_last = at_rest(world)
        wrong += growth(warm, at_last)
    print(table(("at first", at_first), ("warm", warm), ("at last", at_last)))
    print(f"{played} schedules, {answered} answers in {(time.monotonic() - begin_s) / 60:.1f} minutes")
    return wrong


def main() -> None:
    """The soak from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long. Default: 30")
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = soak(Path(folder), options.minutes, options.seed)
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
