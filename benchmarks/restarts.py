"""The pause of a reader when the broker, or the orchestrator, is killed and started again in the middle of its answer.

Mosquitto keeps what is retained in a file, three node processes go on meanwhile. Counted is the longest time without a
token from the kill on; of the orchestrator's, how much longer that is than its restart takes, until it hears messages
again.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import Result, main, median_result, note
from services import Fleet, Installation, Reader, reading, until
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from tests.support.nodes import NodeProcess
from tests.support.persistent_broker import PersistentBroker
from tests.support.services import running_orchestrator

NODES = ("node-a", "node-b", "node-c")
SPEED = 0.5
MEMORY_MB = 400
SERVE = ("--context", "1024", "--slots", "1", "--wire", "fp16", "--min-nodes", "3", "--no-balance")
PINS = [["embed", "node-a"], ["0-9", "node-a"], ["10-19", "node-b"], ["20-29", "node-c"], ["head", "node-c"]]
RUNS = 10
BROKER_S, LONGER_S = 2.0, 1.0
BEFORE_S, AFTER_S = 1.5, 1.0


class World:
    """Nodes, a broker and an orchestrator; the last two can be started again."""

    def __init__(self, stack: ExitStack, model: Model, folder: Path) -> None:
        self._stack, self._model, self._folder = stack, model, folder
        self.broker = stack.enter_context(PersistentBroker(folder / "broker"))
        self._start()
        fleet = Fleet(folder, self.broker.url, MEMORY_MB, SPEED)
        stack.callback(fleet.end)
        for name in NODES:
            fleet.start(name, watchdog_s=1.0)
        self.installation = Installation(self.broker.url)
        until("the first plan", lambda: bool(self.installation.stages()), every_s=0.2)
        self.installation.apply(pins=PINS)

    def _start(self) -> None:
        home = self._folder / "orchestrator"
        (home / "models").unlink(missing_ok=True)
        store = ModelStore(self._model.blobs_folder.parent)
        options = ("--model", self._model.manifest.name, *SERVE)
        started = running_orchestrator(self.broker.url, store, home, *options)
        self._orchestrator: NodeProcess = self._stack.enter_context(started)

    def restart_orchestrator(self) -> float:
        """Kill it and start another one; how long it took until that one hears messages, in seconds."""
        began_s = time.monotonic()
        self._orchestrator.end(signal.SIGKILL)
        self._start()
        return time.monotonic() - began_s

    def restart_broker(self) -> float:
        """Kill it and start it again."""
        self.broker.restart()
        return 0.0


def measure(quick: bool) -> list[Result]:
    """The pause of a reader when the broker or the orchestrator starts again."""
    model = open_smollm2("steady")
    pauses: list[float] = []
    longer: list[float] = []
    with _world(model) as world:
        epoch = _epoch(world)
        for number in range(1 if quick else RUNS):
            pauses.append(_pause(world, world.restart_broker)[0])
            pause_s, restart_s = _pause(world, world.restart_orchestrator)
            longer.append(pause_s - restart_s)
            note(
                f"  {number + 1}: broker {pauses[-1]:.2f} s; orchestrator {pause_s:.2f} s, of which its restart"
                f" {restart_s:.2f} s"
            )
        moved = float(_epoch(world) != epoch)
    return [
        median_result("pause when the broker starts again, median", pauses, "s", at_most=BROKER_S),
        median_result("pause over the orchestrator's restart, median", longer, "s", at_most=LONGER_S),
        Result("plans that were made anew", moved, "plans", at_most=0.0),
    ]


@contextmanager
def _world(model: Model) -> Iterator[World]:
    with ExitStack() as stack:
        parent = model.blobs_folder.parent
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent))
        yield World(stack, model, Path(folder))


def _epoch(world: World) -> str:
    with world.installation.operator() as client:
        return client.status().epoch or ""


def _pause(world: World, restart: Callable[[], float]) -> tuple[float, float]:
    """The longest time without a token from a restart on, and what it returned."""
    with reading(world.broker.url, 1, prompt_tokens=60, max_tokens=900) as (reader,):
        time.sleep(BEFORE_S)
        lost_s = time.monotonic()
        restart_s = restart()
        back_s = time.monotonic()
        until("tokens after the restart", lambda: _goes_on(reader, back_s), every_s=0.05)
        time.sleep(AFTER_S)
        return reader.longest_gap_s(lost_s, time.monotonic()), restart_s


def _goes_on(reader: Reader, since_s: float) -> bool:
    if reader.failure:
        raise RuntimeError(reader.failure)
    return reader.tokens[-1][0] > since_s + AFTER_S


if __name__ == "__main__":
    main("restarts", measure)
