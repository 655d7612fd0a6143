"""KV rows copied or computed again when layers move in mid-answer: both measured, and which one the cost model picks.

Two node processes over Mosquitto; a boundary goes back and forth by six blocks while one answer streams. Each node has
a link of its own, as it is or slowed by a proxy. The orchestrator is told which way to take, whatever it would have
picked; what it would have picked is remembered. Counted is the time that the reader loses, from the decision until a
second after the switch: the time that passed, less the usual time of the tokens that came. The pick is right when it
loses least, give or take a tenth and a token's time.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from harness import Result, main, note
from services import Fleet, Installation, fleet_of, installed, reading, until
from smollm2 import open_smollm2

from orchestrator.deployment import coexistence
from orchestrator.model.model import Model
from orchestrator.planning.moves.kv_migration import Migration, estimate
from tests.support.mqtt_proxy import MqttProxy

NODES = ("node-a", "node-b")
SPEED = 0.5
CACHES: dict[str, Any] = {"context_tokens": 2304, "slots": 1, "wire": "fp16"}
CONTEXTS = (100, 300, 700, 1200, 2000)
RATES = (None, 4e6, 1e6)
"""Bytes/s of a node's link, each way; None: as it is."""
BOUNDARY, SHIFT = 12, 6
BEFORE_S, AFTER_S = 2.0, 1.0
QUICK_BEFORE_S, QUICK_AFTER_S = 0.3, 0.2


@dataclass
class Picks:
    """Tells the orchestrator how to move, and remembers what it would have done."""

    copies: bool = True
    last: Migration | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Migration:
        self.last = estimate(*arguments, **options)
        return replace(self.last, copies=self.copies)


def measure(quick: bool) -> list[Result]:
    """The cost model's pick between copying KV rows and computing them again."""
    model = open_smollm2("fast")
    waits = (QUICK_BEFORE_S, QUICK_AFTER_S) if quick else (BEFORE_S, AFTER_S)
    results, right, cases = [], 0, 0
    for rate in RATES[:1] if quick else RATES:
        with _links(model, rate) as (running, picks):
            for tokens in CONTEXTS[:1] if quick else CONTEXTS:
                lost_s = {}
                for copies in (True, False):
                    picks.copies = copies
                    lost_s[copies], token_s = _move(running, model, tokens, *waits)
                assert picks.last
                picked = picks.last.copies
                ok = lost_s[picked] <= 1.1 * lost_s[not picked] + token_s
                right, cases = right + ok, cases + 1
                link = "links as they are" if rate is None else f"links of {rate / 1e6:g} MB/s"
                name = f"{tokens} tokens, {link}"
                note(
                    f"  {name}: copied {lost_s[True]:.2f} s (predicted {picks.last.copy_lost_s:.2f}), computed again"
                    f" {lost_s[False]:.2f} s (predicted {picks.last.prefill_lost_s:.2f}),"
                    f" pick {'copy' if picked else 'prefill'}: {'right' if ok else 'wrong'}"
                )
                results.append(Result(f"{name}: lost when rows are copied", lost_s[True], "s"))
                results.append(Result(f"{name}: lost when they are computed again", lost_s[False], "s"))
    return [*results, Result(f"cases of {cases} in which the cost model picks the cheaper way", right / cases, "share",
                             at_least=0.9)]  # fmt: skip


@contextmanager
def _links(model: Model, rate: float | None) -> Iterator[tuple[Installation, Picks]]:
    """An installation whose nodes have links of this rate, and what steers its moves."""
    picks = Picks()
    with ExitStack() as stack:
        fleet: Fleet = stack.enter_context(fleet_of(model, (), share=2.0, speed=SPEED, **CACHES))
        for name in NODES:
            proxy = stack.enter_context(MqttProxy(fleet.broker_url))
            proxy.up.rate_bytes_per_s = proxy.down.rate_bytes_per_s = rate
            fleet.start(name, proxy.url)
        stack.callback(fleet.end)
        coexistence.estimate, before = picks, coexistence.estimate  # type: ignore[assignment]
        stack.callback(setattr, coexistence, "estimate", before)
        yield stack.enter_context(installed(fleet, model, balance=False, **CACHES)), picks


_boundaries = itertools.cycle((BOUNDARY + SHIFT, BOUNDARY))


def _move(running: Installation, model: Model, tokens: int, before_s: float, settled_s: float) -> tuple[float, float]:
    """Time that a reader of an answer with so many tokens of context loses to a move, and the usual time of a token."""
    blocks = model.manifest.num_units - 2
    if len(running.stages()) != 2:
        running.apply(pins=_pins(BOUNDARY, blocks))
    with reading(running.broker_url, 1, prompt_tokens=tokens, max_tokens=CACHES["context_tokens"]) as (reader,):
        time.sleep(before_s)
        begin_s = time.monotonic()
        running.apply(pins=_pins(next(_boundaries), blocks))
        switched_s = time.monotonic()
        after_s = switched_s + settled_s
        until("tokens after the switch", lambda: bool(reader.tokens) and reader.tokens[-1][0] > after_s + before_s)
        times = [at_s for at_s, _ in reader.tokens]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times) if earlier < begin_s or earlier > after_s]
    token_s = statistics.median(gaps)
    end_s = min(at_s for at_s in times if at_s > after_s)
    return max(0.0, end_s - begin_s - token_s * reader.counted(begin_s, end_s)), token_s


def _pins(boundary: int, blocks: int) -> list[list[str]]:
    a, b = NODES
    return [["embed", a], [f"0-{boundary - 1}", a], [f"{boundary}-{blocks - 1}", b], ["head", b]]


if __name__ == "__main__":
    main("kv_handover", measure)
