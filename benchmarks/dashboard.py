"""What the page costs: its files, its first paint, and browser and wire while it shows fifty nodes and 8 answers.

Nodes and their model are scripted, orchestrator, broker, gateway and browser are real. The browser reaches the gateway
through a relay at whose ends the kernel counts, all headers included; its processes' times are the system's. Seven of
the eight answers are read elsewhere, one is on the page.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
from harness import Result, main, median_result, note
from playwright.sync_api import Browser, Page

from broker.mqtt import MqttBus
from orchestrator.client.async_client import AsyncClient
from orchestrator.client.question import Question
from orchestrator.gateway.page_routes import page_files
from orchestrator.gateway.server import serving_gateway
from tests.support.browser import page_at, running_browser
from tests.support.byte_relay import ByteRelay
from tests.support.gateway_world import HOST
from tests.support.members import as_operator, as_orchestrator
from tests.support.paced_fleet import PacedFleet
from tests.support.scripted_fleet import TinyStore
from tests.support.scripted_nodes import make_birth, make_manifest
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker
from tests.support.services import patient_client, wait_until_serving

NODES, STREAMS, TOKENS_PER_S = 50, 8, 10.0
BLOCKS_PER_NODE = 4
"""As many as a node has room for: all of them are needed."""
TOKENS = 1_000
CONTEXT = 1_200
WINDOW_S, QUICK_S = 20.0, 2.0
PAINTS = 5
MOST_BYTES, MOST_PAINT_MS = 300_000, 1_000.0
MOST_CPU_PERCENT, MOST_BYTES_PER_S = 10.0, 50_000.0
MOST_LOSS_S = 5.0
_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@contextmanager
def fleet(folder: Path, nodes: int, stack: ExitStack) -> Iterator[tuple[PacedFleet, str]]:
    """A fleet in which every node has a part, and the URL of its broker."""
    broker = stack.enter_context(SecuredBroker())

    def connect(name: str) -> MqttBus:
        bus = MqttBus(as_orchestrator(broker.url), client_id=name)
        bus.connect()
        return bus

    births = [make_birth(f"device-{number:02}") for number in range(nodes)]
    paced = stack.enter_context(PacedFleet(connect("nodes"), births, tokens_per_s=TOKENS_PER_S))
    store = TinyStore(make_manifest(blocks=BLOCKS_PER_NODE * nodes - 6, max_context=CONTEXT))
    service = ScriptedService(connect("orchestrator"), folder, store, slots=STREAMS, context_tokens=CONTEXT)
    stack.callback(service.end)
    with patient_client(broker.url) as client:
        wait_until_serving(client)
        note(f"  a ring of {len(client.plan().stages)} stages")
        yield paced, broker.url


class Readers:
    """Answers that are read elsewhere, by a thread of their own, until the context is left."""

    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    async def _read(self) -> None:
        async with await AsyncClient.connect(as_operator(self._url)) as client:
            reading = [asyncio.create_task(self._read_on(client)) for _ in range(self._count)]
            await asyncio.to_thread(self._over.wait)
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _read_on(self, client: AsyncClient) -> None:
        while True:
            answer = await client.ask(Question(prompt="x", max_tokens=TOKENS))
            async for _ in answer:
                pass


def cpu_s(processes: list[psutil.Process]) -> float:
    """Seconds of processor time that they have had."""
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def shown(page: Page, relay: ByteRelay, processes: list[psutil.Process], window_s: float) -> tuple[float, float]:
    """(percent of a core in the browser, bytes a second on the wire) while the page is left alone."""
    page.wait_for_timeout(2_000)
    began_s, cpu_before_s, wire_before = time.monotonic(), cpu_s(processes), sum(relay.wire_bytes())
    page.wait_for_timeout(window_s * 1e3)
    took_s = time.monotonic() - began_s
    return 100 * (cpu_s(processes) - cpu_before_s) / took_s, (sum(relay.wire_bytes()) - wire_before) / took_s


def first_paints(browser: Browser, root: str, count: int) -> list[float]:
    """Milliseconds to the first paint, each in a session that has seen nothing before."""
    found = []
    for _ in range(count):
        with page_at(browser, root, "fleet") as page:
            page.locator(".ring .card").first.wait_for()
            found.append(float(page.evaluate(_PAINT)))
    return found


def measure(quick: bool) -> list[Result]:
    """What the page costs."""
    nodes = 5 if quick else NODES
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-")))
        paced, url = stack.enter_context(fleet(folder, nodes, stack))
        server = stack.enter_context(serving_gateway(as_operator(url), host=HOST, port=0))
        relay = stack.enter_context(ByteRelay((HOST, server.port)))
        root = f"http://{HOST}:{relay.port}"
        before = set(psutil.Process().children(recursive=True))
        browser = stack.enter_context(running_browser())
        paints = first_paints(browser, root, 1 if quick else PAINTS)
        results = [
            Result("page weight", sum(map(len, page_files().values())) / 1e3, "kB", at_most=MOST_BYTES / 1e3),
            median_result("first paint", paints, "ms", at_most=MOST_PAINT_MS),
        ]
        stack.enter_context(Readers(url, STREAMS - 1))
        page = stack.enter_context(page_at(browser, root, "chat", viewport={"width": 1280, "height": 860}))
        page.get_by_label("Your question").fill("a question")
        page.get_by_text("Settings").click()
        page.get_by_label("Most tokens").fill(str(TOKENS))
        page.get_by_role("button", name="Send").click()
        page.locator("li.assistant .words:not(:has(.wait))").wait_for()
        started = set(psutil.Process().children(recursive=True)) - before
        processes = [one for one in started if "chrom" in one.name()]
        for view in ("fleet", "chat"):
            page.goto(f"{root}/#{view}")
            cpu_percent, bytes_per_s = shown(page, relay, processes, QUICK_S if quick else WINDOW_S)
            note(f"  {view}: {cpu_percent:.1f} %, {bytes_per_s / 1e3:.1f} kB/s")
            results += [
                Result(f"browser, {view}", cpu_percent, "% of a core", at_most=MOST_CPU_PERCENT),
                Result(f"on the wire, {view}", bytes_per_s / 1e3, "kB/s", at_most=MOST_BYTES_PER_S / 1e3),
            ]
        page.goto(f"{root}/#fleet")
        lost = next(iter(paced.nodes))
        page.locator(".ring .card", has_text=lost).wait_for()
        began_s = time.monotonic()
        paced.lose(lost)
        page.locator(".card.lost, .chip.lost", has_text=lost).wait_for()
        results.append(Result("a lost node is shown after", time.monotonic() - began_s, "s", at_most=MOST_LOSS_S))
    return results


if __name__ == "__main__":
    main("dashboard", measure)
