"""What the way by HTTP costs against the way by MQTT: time to the first token and per token, 1 and 8 streams, in turn.

One fleet of two node processes, one ``linguabus api`` beside it. The same reader, an event loop of this process, reads
both: by the MQTT client, and by an HTTP client from the gateway's stream. All share the machine's cores, so that a
client's own work delays the answers: aiohttp's is less than the MQTT client's; httpx's, which is under many Python
clients, is several times that, and is shown beside it.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import harness
import httpx
from harness import Result, main, median_result, note
from smollm2 import open_smollm2

from broker.local_broker import LocalBroker
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.question import Question
from orchestrator.model.store import ModelStore
from schemas.messages import PlanConstraints
from tests.support.nodes import running_nodes
from tests.support.services import patient_client, running_orchestrator, wait_until_serving

NODES = ("node-a", "node-b")
SERVE = ("--context", "512", "--slots", "8", "--wire", "fp16", "--min-nodes", "2", "--no-balance")
PINS = (("embed", "node-a"), ("0-14", "node-a"), ("15-29", "node-b"), ("head", "node-b"))
MEMORY_MB = "900"
PROMPT = "Once upon a time"
TOKENS = 100
STREAMS = (1, 8)
PAIRS = 25
"""Runs differ by more than what is measured: a median of few is on either side of it."""
SHORT_TOKENS = 4
SHORT_PAIRS = 60
"""Of short answers, for the first token, of which a long one has no more."""
HTTPX_EVERY = 5
"""httpx reads beside every fifth pair."""
MOST_TOKEN_RATIO = 1.05
MOST_FIRST_MS = 20.0

Times = tuple[float, float]
"""Seconds to the first piece, and between two tokens after it."""
Read = Callable[[int], Coroutine[Any, Any, Times]]


@contextmanager
def running_gateway(broker_url: str) -> Iterator[tuple[str, int]]:
    """``linguabus api`` on a free port of this machine: its root's URL, its process."""
    command = [sys.executable, "-m", "orchestrator.cli", "--broker", broker_url, "api", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)
    assert process.stdout
    with process.stdout:
        try:
            line = process.stdout.readline()
            yield line.split()[2].removesuffix("/v1"), process.pid
        finally:
            process.terminate()
            process.wait()


async def by_mqtt(client: AsyncClient, tokens: int) -> Times:
    """One answer by the MQTT client."""
    asked_s = time.perf_counter()
    answer = await client.ask(Question(prompt=PROMPT, max_tokens=tokens))
    came_s = [time.perf_counter() async for _ in answer]
    return came_s[0] - asked_s, (came_s[-1] - came_s[0]) / (tokens - 1)


def body(tokens: int) -> dict[str, Any]:
    """What is asked by HTTP."""
    return {"model": "default", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True}


async def came_in(lines: AsyncIterator[str], tokens: int, asked_s: float) -> Times:
    """The times of the pieces in a stream's lines."""
    events = (line.removeprefix("data: ") async for line in lines if line.startswith("data: {"))
    came_s = [time.perf_counter() async for event in events if json.loads(event)["choices"][0]["text"]]
    return came_s[0] - asked_s, (came_s[-1] - came_s[0]) / (tokens - 1)


async def by_http(client: aiohttp.ClientSession, root: str, tokens: int) -> Times:
    """One answer by HTTP."""
    asked_s = time.perf_counter()
    async with client.post(f"{root}/v1/completions", json=body(tokens)) as response:
        return await came_in((line.decode() async for line in response.content), tokens, asked_s)


async def by_httpx(client: httpx.AsyncClient, root: str, tokens: int) -> Times:
    """The same, read by httpx."""
    asked_s = time.perf_counter()
    async with client.stream("POST", f"{root}/v1/completions", json=body(tokens)) as response:
        return await came_in(response.aiter_lines(), tokens, asked_s)


async def together(read: Read, streams: int, tokens: int) -> Times:
    """The medians over answers that are read at once."""
    times = await asyncio.gather(*(read(tokens) for _ in range(streams)))
    return statistics.median(first for first, _ in times), statistics.median(per_token for _, per_token in times)


async def compare(broker_url: str, root: str, tokens: int, pairs: int) -> list[Result]:
    """The ways in turn."""
    results: list[Result] = []
    async with (
        await AsyncClient.connect(broker_url) as mqtt,
        aiohttp.ClientSession() as http,
        httpx.AsyncClient(timeout=120.0) as httpx_client,
    ):
        ways = {"http": partial(by_http, http, root), "mqtt": partial(by_mqtt, mqtt)}
        with_httpx = ways | {"httpx": partial(by_httpx, httpx_client, root)}
        for streams in STREAMS:
            for read in with_httpx.values():
                await together(read, streams, 8)
            long = [await in_turn(ways, number, streams, tokens) for number in range(pairs)]
            short = [
                await in_turn(ways if number % HTTPX_EVERY else with_httpx, number, streams, SHORT_TOKENS)
                for number in range(SHORT_PAIRS if pairs > 1 else 1)
            ]
            results += results_of(long, short, f"{streams} streams")
    return results


async def in_turn(ways: dict[str, Read], number: int, streams: int, tokens: int) -> dict[str, Times]:
    """One pair, in the one order or the other: whoever comes second finds the machine warmer."""
    order = list(ways.items())[:: -1 if number % 2 else 1]
    return {name: await together(read, streams, tokens) for name, read in order}


def results_of(long: list[dict[str, Times]], short: list[dict[str, Times]], streams: str) -> list[Result]:
    """What a number of streams at once has shown."""
    ratios = [times["http"][1] / times["mqtt"][1] for times in long]
    note(f"  {streams}: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    per_token_ms = [1e3 * times["mqtt"][1] for times in long]
    first_ms = [1e3 * times["mqtt"][0] for times in short]
    return [
        median_result(f"time per token by HTTP over MQTT, {streams}", ratios, "ratio", at_most=MOST_TOKEN_RATIO),
        median_result(f"time per token by MQTT, {streams}", per_token_ms, "ms"),
        median_result(f"later first token by HTTP, {streams}", _later_ms(short, "http"), "ms", at_most=MOST_FIRST_MS),
        median_result(f"later first token where httpx reads, {streams}", _later_ms(short, "httpx"), "ms"),
        median_result(f"first token by MQTT, {streams}", first_ms, "ms"),
    ]


def _later_ms(found: list[dict[str, Times]], way: str) -> list[float]:
    return [1e3 * (times[way][0] - times["mqtt"][0]) for times in found if way in times]


def measure(quick: bool) -> list[Result]:
    """What the way by HTTP costs."""
    model = open_smollm2("fast")
    with ExitStack() as stack:
        parent = model.blobs_folder.parent
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
        broker = stack.enter_context(LocalBroker(kind="mosquitto"))
        options = ("--model", model.manifest.name, *SERVE)
        stack.enter_context(running_orchestrator(broker.url, ModelStore(parent), folder / "home", *options))
        stack.enter_context(running_nodes(NODES, broker.url, folder, "--memory-limit-mb", MEMORY_MB))
        with patient_client(broker.url) as client:
            wait_until_serving(client)
            client.apply(PlanConstraints(pins=PINS), timeout_s=120.0)
        root, _ = stack.enter_context(running_gateway(broker.url))
        return asyncio.run(compare(broker.url, root, 8 if quick else TOKENS, 1 if quick else PAIRS))


if __name__ == "__main__":
    main("gateway", measure)
