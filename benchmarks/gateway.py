"""What the way by HTTP costs against the way by MQTT: time to the first token and per token, 1 and 8 streams, in turn.

One fleet of two node processes, one ``linguabus api`` beside it. The same reader, an event loop of this process, reads
both: by the MQTT client, and by an HTTP client from the gateway's stream.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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
PAIRS = 15
"""Runs differ by more than what is measured: a median of five is on either side of it."""
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


async def by_http(client: httpx.AsyncClient, root: str, tokens: int) -> Times:
    """One answer by HTTP."""
    body = {"model": "default", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True}
    asked_s = time.perf_counter()
    async with client.stream("POST", f"{root}/v1/completions", json=body) as response:
        events = (line.removeprefix("data: ") async for line in response.aiter_lines() if line.startswith("data: {"))
        came_s = [time.perf_counter() async for event in events if json.loads(event)["choices"][0]["text"]]
    return came_s[0] - asked_s, (came_s[-1] - came_s[0]) / (tokens - 1)


async def together(read: Read, streams: int, tokens: int) -> Times:
    """The medians over answers that are read at once."""
    times = await asyncio.gather(*(read(tokens) for _ in range(streams)))
    return statistics.median(first for first, _ in times), statistics.median(per_token for _, per_token in times)


async def compare(broker_url: str, root: str, tokens: int, pairs: int) -> list[Result]:
    """Both ways in turn."""
    results: list[Result] = []
    async with await AsyncClient.connect(broker_url) as mqtt, httpx.AsyncClient(timeout=120.0) as http:

        async def http_way(count: int) -> Times:
            return await by_http(http, root, count)

        async def mqtt_way(count: int) -> Times:
            return await by_mqtt(mqtt, count)

        for streams in STREAMS:
            for read in (http_way, mqtt_way):
                await together(read, streams, 8)
            found = [
                (await together(http_way, streams, tokens), await together(mqtt_way, streams, tokens))
                for _ in range(pairs)
            ]
            ratios = [http_times[1] / mqtt_times[1] for http_times, mqtt_times in found]
            more_ms = [1e3 * (http_times[0] - mqtt_times[0]) for http_times, mqtt_times in found]
            note(f"  {streams} streams: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
            results += [
                median_result(
                    f"time per token by HTTP over MQTT, {streams} streams", ratios, "ratio", at_most=MOST_TOKEN_RATIO
                ),
                median_result(f"later first token by HTTP, {streams} streams", more_ms, "ms", at_most=MOST_FIRST_MS),
                median_result(f"time per token by MQTT, {streams} streams", [1e3 * m[1] for _, m in found], "ms"),
            ]
    return results


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
