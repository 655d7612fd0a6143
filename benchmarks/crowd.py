"""Fifty readers of the gateway at once: does each get his answer and his share, what does it take, who is told to wait?

Two node processes, an orchestrator and one ``linguabus api``. The share is Jain's index of the readers' tokens a second
(Jain, Chiu, Hawe 1984): 1 when all are served alike, 1/n when one alone is.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import harness
import httpx
import psutil
from gateway import MEMORY_MB, NODES, PINS, running_gateway
from harness import Result, main, note
from smollm2 import open_smollm2

from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from schemas.messages import PlanConstraints
from tests.support.nodes import running_nodes
from tests.support.services import patient_client, running_orchestrator, wait_until_serving

READERS = 50
TOKENS = 60
LEAST_INDEX = 0.9
MOST_GROWTH = 1.3
"""Of the gateway's memory from the first crowd to the last."""
ROUNDS = 3
PER_CALLER = 64
"""What the gateway allows one caller."""


def jain_index(shares: list[float]) -> float:
    """How even shares are."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


async def read(client: httpx.AsyncClient, root: str, number: int, tokens: int) -> float | int:
    """One reader's tokens per second, or the status that he was refused with."""
    body = {"model": "default", "prompt": f"{number} bottles of", "max_tokens": tokens, "seed": number, "stream": True}
    body["stream_options"] = {"include_usage": True}
    asked_s = time.perf_counter()
    made = 0
    async with client.stream("POST", f"{root}/v1/completions", json=body) as response:
        if response.status_code != 200:
            return response.status_code
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                made = (event["usage"] or {}).get("completion_tokens", 0) if "usage" in event else made
    assert made > 1, "an answer may be shorter than it might be"
    return made / (time.perf_counter() - asked_s)


async def crowd(root: str, readers: int, tokens: int) -> list[float | int]:
    """Readers at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600.0, limits=limits) as client:
        return list(await asyncio.gather(*(read(client, root, number, tokens) for number in range(readers))))


def measure(quick: bool) -> list[Result]:
    """Fifty readers at once."""
    model = open_smollm2("fast")
    readers, tokens, rounds = (6, 8, 1) if quick else (READERS, TOKENS, ROUNDS)
    options = ("--model", model.manifest.name, "--context", "128", "--slots", str(readers), "--min-nodes", "2")
    with ExitStack() as stack:
        parent = model.blobs_folder.parent
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
        broker = stack.enter_context(LocalBroker(kind="mosquitto"))
        store = ModelStore(parent)
        stack.enter_context(running_orchestrator(broker.url, store, folder / "home", *options, "--no-balance"))
        stack.enter_context(running_nodes(NODES, broker.url, folder, "--memory-limit-mb", MEMORY_MB))
        with patient_client(broker.url) as client:
            wait_until_serving(client)
            client.apply(PlanConstraints(pins=PINS), timeout_s=120.0)
        root, pid = stack.enter_context(running_gateway(broker.url))
        indexes, held, failed = [], [], 0
        for number in range(rounds):
            answered = asyncio.run(crowd(root, readers, tokens))
            served = [share for share in answered if isinstance(share, float)]
            failed += readers - len(served)
            indexes.append(jain_index(served))
            held.append(psutil.Process(pid).memory_info().rss)
            note(f"  round {number + 1}: index {indexes[-1]:.3f}, gateway {held[-1] / 1e6:.0f} MB")
        refused = [] if quick else asyncio.run(crowd(root, PER_CALLER + 6, 4))
    results = [
        Result("readers without an answer", float(failed), "readers", at_most=0),
        harness.median_result("Jain's index of service", indexes, "", at_least=LEAST_INDEX),
        Result("gateway's memory, last round over first", held[-1] / held[0], "ratio", at_most=MOST_GROWTH),
        Result("gateway's memory", held[-1] / 1e6, "MB"),
    ]
    if not quick:
        told = sum(status == 429 for status in refused)
        results.append(Result("readers beyond a caller's limit told to wait", float(told), "readers", at_least=6))
    return results


if __name__ == "__main__":
    main("crowd", measure)
