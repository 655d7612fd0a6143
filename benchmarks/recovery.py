"""The pause of a stream when a middle stage is lost: its process killed, its link cut, its link half-open.

Four node processes over Mosquitto, each with a link of its own; any three hold the model, and each keeps units of
its neighbours. A stream is read; when it is under way, and what nodes were to fetch is there, the node in the middle of
the ring is lost in one of three ways: ``kill -9``; its connection is closed and no other comes about; nothing passes in
either direction, and nobody is told. Counted is the longest time without a token from then on. Afterwards the node
comes back, and the next loss is another one.
"""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from harness import Result, main, median_result, note
from services import Fleet, Installation, fleet_of, installed, reading, until
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from orchestrator.planning.percentile import percentile
from schemas.messages import StandbyView
from tests.support.mqtt_proxy import MqttProxy

NODES = ("node-a", "node-b", "node-c", "node-d")
SPEED = 0.5
SHARE = 0.45
CACHES: dict[str, Any] = {"context_tokens": 1024, "slots": 1, "wire": "fp16"}
WATCHDOG_S = 1.0
RUNS = 10
MEDIAN_S, P95_S = 3.0, 5.0
PAUSE_LIMIT_S = 60.0
BEFORE_S, AFTER_S = 1.0, 1.0


class Links:
    """Nodes that can be lost and brought back."""

    def __init__(self, fleet: Fleet, proxies: dict[str, MqttProxy]) -> None:
        self._fleet = fleet
        self._proxies = proxies

    def kill(self, node: str) -> Callable[[], object]:
        """End its process as if the power failed."""
        self._fleet.nodes[node].end(signal.SIGKILL)
        return lambda: self._fleet.start(node, self._proxies[node].url, watchdog_s=WATCHDOG_S)

    def cut(self, node: str) -> Callable[[], object]:
        """Close its connection; no other comes about."""
        proxy = self._proxies[node]
        proxy.refuse_new = True
        proxy.cut()
        return lambda: setattr(proxy, "refuse_new", False)

    def half_open(self, node: str) -> Callable[[], object]:
        """Let nothing pass."""
        self._proxies[node].fall_silent()
        return self._proxies[node].speak


def measure(quick: bool) -> list[Result]:
    """The pause of a stream when a middle stage is lost."""
    model = open_smollm2("steady")
    pauses: dict[str, list[float]] = {}
    with _fleet(model) as (running, links):
        kinds = {"kill -9": links.kill, "a cut link": links.cut, "a half-open link": links.half_open}
        for number in range(1 if quick else RUNS):
            for kind, lose in itertools.islice(kinds.items(), 1 if quick else None):
                pause_s = _pause_s(running, lose)
                note(f"  {number + 1}: {kind}: {pause_s:.2f} s")
                pauses.setdefault(kind, []).append(pause_s)
    results = []
    for kind, values in pauses.items():
        results.append(median_result(f"pause after {kind}, median", values, "s", at_most=MEDIAN_S))
        worst = percentile(values, 0.95)
        results.append(Result(f"pause after {kind}, p95", worst, "s", (min(values), max(values)), at_most=P95_S))
    return results


@contextmanager
def _fleet(model: Model) -> Iterator[tuple[Installation, Links]]:
    with ExitStack() as stack:
        fleet = stack.enter_context(fleet_of(model, (), share=SHARE, speed=SPEED, **CACHES))
        proxies = {name: stack.enter_context(MqttProxy(fleet.broker_url)) for name in NODES}
        for name, proxy in proxies.items():
            fleet.start(name, proxy.url, watchdog_s=WATCHDOG_S)
        stack.callback(fleet.end)
        yield stack.enter_context(installed(fleet, model, balance=False, **CACHES)), Links(fleet, proxies)


def _pause_s(running: Installation, lose: Callable[[str], Callable[[], object]]) -> float:
    """The longest time without a token after the middle stage of the ring is lost; it is there again afterwards."""
    until("a fleet that is ready", lambda: _is_ready(running), every_s=0.2)
    with reading(running.broker_url, 1, prompt_tokens=100, max_tokens=800) as (reader,):
        time.sleep(BEFORE_S)
        victim = running.stages()[1][0]
        lost_s = time.monotonic()
        back = lose(victim)
        try:
            until(
                "tokens after the loss",
                lambda: (reader.tokens[-1][0] > lost_s + AFTER_S and time.monotonic() - reader.tokens[-1][0] < 0.5
                         and victim not in {node for node, *_ in running.stages()}) or reader.failure,
                PAUSE_LIMIT_S, every_s=0.1,
            )  # fmt: skip
            end_s = time.monotonic() + AFTER_S
            time.sleep(AFTER_S)
        finally:
            back()
        return reader.longest_gap_s(lost_s, end_s)


def _is_ready(running: Installation) -> bool:
    """Are all nodes here, a ring of three serving and standby units where they belong?"""
    with running.operator() as client:
        nodes, status = client.nodes().nodes, client.status()
        here = sum(node.state == "online" and not node.drained for node in nodes)
        kept = client.plan().standby if status.state == "serving" else ()
    return here == len(NODES) and status.state == "serving" and not status.progress and _are_there(kept)


def _are_there(kept: Sequence[StandbyView]) -> bool:
    return all((one.node_bytes_on_disk or 0) >= one.node_bytes for one in kept)


if __name__ == "__main__":
    main("recovery", measure)
