"""The balancer at work on real nodes: what it gains when a device becomes slow, and what nobody notices meanwhile.

Three node processes over Mosquitto, none with memory for the model alone, all at the same emulated speed. In the middle
of the answers the node with the most layers drops to 0.3 of that. Throughput is counted once everything has settled,
with the balancer and without, in turn, each time with an orchestrator that knows nothing of the nodes' speeds.

Then a node that is slow for every other five seconds, which must not make layers go back and forth; the longest time
between two tokens while boundaries move (somebody asks for the moves, units are on standby); a fourth node that joins
in an answer, and its drain in another one: the text is that of an answer nobody disturbed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness import PAIRS, Result, main, median_result, note
from services import Fleet, Installation, Reader, computing, fleet_of, installed, parts_bytes, reading, until
from smollm2 import open_smollm2

from orchestrator.commands.demo_fleet import node_overhead_bytes
from orchestrator.fleet.profiles import PROBE_TIME_LIMIT_S
from orchestrator.model.model import Model

NODES = ("node-a", "node-b", "node-c")
SPEED, DROP = 0.3, 0.3
"""Two cores carry three nodes at this speed, and the broker; the slow node has this share of it."""
ROOM = 0.95
"""A node's memory over what the whole model needs."""
PLANNED = {"latency": 0.48, "throughput": 0.75}
"""What plans may use of it, the rest is for a move. For one stream two nodes would be quicker than three."""
CONTEXT_TOKENS = 512
STREAMS = 8
ANSWER_TOKENS = 400
LONG_CONTEXT, LONG_PROMPT = 2560, 1000
"""Answers that last for all moves, beside other programs too: the prompt of a next one would hold up all others."""
GAP_MOVES = 10
CHANGES_PER_MINUTE = 12
"""Of the speed of a restless node: layers must not follow it back and forth."""
JOIN_TOKENS, JOIN_SPEED = 300, 0.2
PARTS = ("gain", "gaps", "restless", "join")


@dataclass(frozen=True)
class Effort:
    """How much is measured: pairs with and without the balancer, and the waits of each.

    Answers flow for a while, one node becomes slow, all settles, tokens are counted.
    """

    pairs: int = PAIRS
    before_s: float = 5.0
    settled_s: float = 15.0
    counted_s: float = 12.0
    profiled_s: float = PROBE_TIME_LIMIT_S


QUICK = Effort(pairs=1, before_s=0.5, settled_s=1.0, counted_s=1.0, profiled_s=0.1)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is measured, and beside what."""
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="measure these only")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="beside so many processes that compute")


def measure(quick: bool, part: Sequence[str], busy: int) -> list[Result]:
    """Throughput with the balancer over without when a device slows down; gaps, joins and drains on the way."""
    model = open_smollm2("fast")
    with computing(busy):
        if quick:
            return [_gain(model, 1, "latency", 1.32, QUICK)]
        measured = {
            "gain": lambda: [
                _gain(model, 1, "latency", 1.32, Effort()), _gain(model, STREAMS, "throughput", 1.5, Effort())
            ],
            "gaps": lambda: [_gaps(model, 1, 64), _gaps(model, STREAMS, LONG_PROMPT)],
            "restless": lambda: _restless(model),
            "join": lambda: _join_and_drain(open_smollm2("exact")),
        }  # fmt: skip
        return [result for name in PARTS if name in part for result in measured[name]()]


# --- a device slows down --------------------------------------------------------------------------------------


def _gain(model: Model, streams: int, goal: str, target: float, effort: Effort) -> Result:
    caches = {"context_tokens": CONTEXT_TOKENS, "slots": STREAMS, "wire": "fp16"}
    ratios = []
    with fleet_of(model, NODES, share=ROOM, speed=SPEED, **caches) as fleet:
        for _ in range(effort.pairs):
            rates = [_rate(fleet, model, streams, goal, balance, effort) for balance in (True, False)]
            note(f"  {streams} streams: {rates[0]:.1f} tokens/s with the balancer, {rates[1]:.1f} without")
            ratios.append(rates[0] / rates[1])
    name = f"one of three nodes at {DROP:g} of its speed, {streams} streams: balancer on over off"
    return median_result(name, ratios, "x", at_least=target)


def _rate(fleet: Fleet, model: Model, streams: int, goal: str, balance: bool, effort: Effort) -> float:
    """Tokens per second over all streams after one node has become slow."""
    for name in NODES:
        fleet.set_speed(name, SPEED)
    time.sleep(1.5)  # a heartbeat: nodes measure themselves at this speed
    caches = {"context_tokens": CONTEXT_TOKENS, "slots": STREAMS, "wire": "fp16"}
    with installed(fleet, model, balance=balance, profiled_s=effort.profiled_s, **caches) as running:  # type: ignore[arg-type]
        limit_mb = (node_overhead_bytes() + PLANNED[goal] * _whole_bytes(model)) / 1e6
        running.apply(objective=goal, max_memory_mb=[[name, round(limit_mb)] for name in NODES])
        running.tell_plan("at first")
        with reading(running.broker_url, streams, prompt_tokens=32, max_tokens=ANSWER_TOKENS) as readers:
            time.sleep(effort.before_s)
            slow = max(running.stages(), key=lambda stage: stage[2] - stage[1])[0]
            fleet.set_speed(slow, SPEED * DROP)
            time.sleep(effort.settled_s)
            running.tell_plan(f"with {slow} slow, balancer {'on' if balance else 'off'}")
            begin_s = time.monotonic()
            time.sleep(effort.counted_s)
            end_s = time.monotonic()
            return sum(reader.counted(begin_s, end_s) for reader in readers) / (end_s - begin_s)


def _whole_bytes(model: Model) -> int:
    return parts_bytes(model, context_tokens=CONTEXT_TOKENS, slots=STREAMS, wire="fp16")


def _restless(model: Model) -> list[Result]:
    """Moves in two minutes in which one node is slow for every other five seconds."""
    caches = {"context_tokens": CONTEXT_TOKENS, "slots": STREAMS, "wire": "fp16"}
    moves = []
    with (
        fleet_of(model, NODES, share=ROOM, speed=SPEED, **caches) as fleet,
        installed(fleet, model, balance=True, **caches) as running,  # type: ignore[arg-type]
    ):
        running.apply(objective="throughput")
        with reading(running.broker_url, STREAMS, prompt_tokens=32, max_tokens=ANSWER_TOKENS):
            time.sleep(5.0)
            for _minute in range(2):
                before = running.moves()
                for turn in range(CHANGES_PER_MINUTE):
                    fleet.set_speed(NODES[0], SPEED * (DROP, 1.0)[turn % 2])
                    time.sleep(60.0 / CHANGES_PER_MINUTE)
                moves.append(running.moves() - before)
                note(f"  a restless node: {moves[-1]} moves in a minute")
    changes = 2 * CHANGES_PER_MINUTE
    return [
        Result(f"moves while a node changes its speed {changes} times in two minutes", float(sum(moves)), "moves",
               at_most=changes / 4),
        Result("of these in the second minute", float(moves[1]), "moves", at_most=CHANGES_PER_MINUTE / 6),
    ]  # fmt: skip


# --- gaps -----------------------------------------------------------------------------------------------------


def _gaps(model: Model, streams: int, prompt_tokens: int) -> Result:
    """The longest time without a token, over all streams, while a boundary goes back and forth over standby units."""
    caches = {"context_tokens": LONG_CONTEXT, "slots": STREAMS, "wire": "fp16"}
    blocks = model.manifest.num_units - 2
    third = blocks // 3
    plans = [_pins(third + shift, 2 * third, blocks) for shift in (0, 3)]
    gaps_ms = []
    with (
        fleet_of(model, NODES, share=ROOM, speed=1.0, **caches) as fleet,
        installed(fleet, model, balance=False, **caches) as running,  # type: ignore[arg-type]
    ):
        for plan in reversed(plans):  # so that units are on the disks of those who will need them
            running.apply(pins=plan)
        until("standby units", lambda: running.is_idle(), every_s=0.2)
        answer = LONG_CONTEXT - prompt_tokens - 64
        with reading(running.broker_url, streams, prompt_tokens=prompt_tokens, max_tokens=answer) as readers:
            for plan in itertools.islice(itertools.cycle(reversed(plans)), GAP_MOVES):
                usual_s = statistics.median(
                    reader.longest_gap_s(time.monotonic() - 1.0, time.monotonic()) for reader in readers
                )
                begin_s, done = time.monotonic(), running.moves()
                running.apply(pins=plan)
                if running.moves() == done:
                    note("  (no request was open)")
                    continue
                time.sleep(0.5)
                gaps_ms.append(1e3 * max(reader.longest_gap_s(begin_s, time.monotonic()) for reader in readers))
                note(f"  move: longest gap {gaps_ms[-1]:.0f} ms, usual in a second {usual_s * 1e3:.0f} ms")
    name = f"longest gap between two tokens in a planned move, {streams} streams of {prompt_tokens} tokens"
    worst = max(gaps_ms)
    return Result(name, worst, "ms", (min(gaps_ms), worst), at_most=250.0)


def _pins(first: int, second: int, blocks: int) -> list[list[str]]:
    """Decoder blocks [0, first) on the first node, up to ``second`` on the second, the others on the third."""
    a, b, c = NODES
    return [
        ["embed", a], [f"0-{first - 1}", a], [f"{first}-{second - 1}", b], [f"{second}-{blocks - 1}", c], ["head", c]
    ]  # fmt: skip


# --- a node joins, and leaves again ---------------------------------------------------------------------------


def _join_and_drain(model: Model) -> list[Result]:
    caches = {"context_tokens": CONTEXT_TOKENS, "slots": 2, "wire": "fp32"}
    with (
        fleet_of(model, NODES, share=ROOM, speed=JOIN_SPEED, **caches) as fleet,
        installed(fleet, model, balance=True, **caches) as running,  # type: ignore[arg-type]
    ):
        running.apply(objective="throughput")
        undisturbed = _answer(running)
        reader = _begin(running)
        began_s = time.monotonic()
        fleet.start("node-d")
        joined_s = until("layers on the new node", lambda: _holds(running, "node-d"), every_s=0.1) - began_s
        reader.join()
        same_after_join = reader.ids == undisturbed
        reader = _begin(running)
        began_s = time.monotonic()
        running.drain("node-d")
        drained_s = until("the drain", lambda: not _holds(running, "node-d"), every_s=0.1) - began_s
        reader.join()
        same_after_drain = reader.ids == undisturbed
    return [
        Result("a node that joins in an answer has layers after", joined_s, "s", at_most=15.0),
        Result("a drained node has no layers after", drained_s, "s", at_most=15.0),
        Result("texts of 2 that differ from the undisturbed one", 2.0 - same_after_join - same_after_drain, "texts",
               at_most=0.0),
    ]  # fmt: skip


def _begin(running: Installation) -> Reader:
    reader = Reader(running.broker_url, "Once upon a time", JOIN_TOKENS, once=True)
    reader.start()
    until("the first tokens", lambda: len(reader.tokens) > 3 or bool(reader.failure))
    return reader


def _answer(running: Installation) -> list[int]:
    reader = _begin(running)
    reader.join()
    if reader.failure or not reader.ids:
        raise RuntimeError(reader.failure or "no answer")
    return reader.ids


def _holds(running: Installation, node: str) -> bool:
    return node in {stage[0] for stage in running.stages()}


if __name__ == "__main__":
    main("rebalance", measure, add_options=add_options)
