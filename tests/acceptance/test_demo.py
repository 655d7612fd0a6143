"""``linguabus demo`` with its real model: the answer, who held what, and that nothing stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import replace

import httpx
import psutil
import pytest
import yaml

from orchestrator.commands.demo import QUESTION
from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from orchestrator.planning.solution import Solution
from orchestrator.planning.solver.solve import solve
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.service.config import ServiceConfig
from tests.support.repository import ROOT
from tests.support.scripted_nodes import make_birth

DEMO = [sys.executable, "-u", "-m", "orchestrator.cli", "demo"]
TIMEOUT_S = 300.0
MEGABYTES = re.compile(r"([\d,]+) MB")


def asked_by_the_page(root: str) -> str:
    """What is answered where the page asks."""
    page = httpx.get(root, headers={"accept": "text/html"}, timeout=TIMEOUT_S)
    assert page.headers["content-type"].startswith("text/html")
    question = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24, "temperature": 0}
    answer = httpx.post(f"{root}v1/chat/completions", json={"model": "default", **question}, timeout=TIMEOUT_S)
    return str(answer.json()["choices"][0]["message"]["content"])


def test_three_nodes_answer_and_none_holds_the_model() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    answer = lines[lines.index("> What is the capital of Japan?") + 1]
    assert "Tokyo" in answer
    assert any(re.search(r"\d+ tokens, \d+\.\d tokens/s", line) for line in lines)
    assert lines[-1] == "everything is stopped"

    (alone,) = (int(match.group(1)) for line in lines if (match := re.search(r"one alone would need (\d+) MB", line)))
    holdings = [line for line in lines if re.match(r"node-\d ", line)]
    assert {line.split()[0] for line in holdings} == {"node-1", "node-2", "node-3"}
    for line in holdings:
        limit, planned, peak, blobs, standby, on_disk = (int(m.replace(",", "")) for m in MEGABYTES.findall(line))
        assert peak <= planned <= limit < alone, line
        # Standby units may still be arriving.
        assert 0.85 * blobs <= on_disk <= 1.15 * (blobs + standby), line


@pytest.mark.parametrize(("overhead_mb", "nodes", "feasible"), [(90, 3, True), (70, 2, False)])
def test_the_compose_files_nodes_can_hold_the_model_together_and_two_can_not(
    overhead_mb: int, nodes: int, feasible: bool
) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    options = [services[f"node-{number}"]["command"] for number in (1, 2, 3)]
    store, name = demo_model(default_cache())
    births = [
        replace(make_birth(f"node-{number}"), memory_bytes=int(one[-1]) * 10**6, overhead_bytes=overhead_mb * 10**6)
        for number, one in enumerate(options[:nodes], 1)
    ]
    settings = ServiceConfig(broker_url="mqtt://127.0.0.1", data_dir=store.home)
    problem = build_problem(
        store.show(name), births, context_tokens=512, slots=2, wire_dtype=store.open(name).wire,
        chunk_tokens=settings.chunk_tokens,
    )  # fmt: skip
    assert isinstance(solve(problem, prove=False), Solution) == feasible


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(one, marks=pytest.mark.long) for one in (signal.SIGTERM, signal.SIGKILL))],
)
def test_stopping_the_demo_stops_everything(number: signal.Signals) -> None:
    with subprocess.Popen([*DEMO, "--page"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        page = next(line for line in process.stdout if line.startswith("in a browser: ")).split()[-1]
        assert "Tokyo" in asked_by_the_page(page)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 6  # broker, orchestrator, three nodes, the way in by HTTP
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in (0, 130, -signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=TIMEOUT_S)
    assert alive == []
