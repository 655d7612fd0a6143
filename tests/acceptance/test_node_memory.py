"""Answers leave nothing behind in the nodes, and nodes take no more than was planned."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from orchestrator.model.model import Model
from orchestrator.planning.cost import predict
from orchestrator.planning.problem import Stage
from orchestrator.replanning.problem_builder import build_problem
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.ring import Ring, even_cuts

STAGES = 3
WARM_UP, ANSWERS = 10, 20
PROMPT = list(range(5, 45))
ALLOWED_GROWTH_BYTES = 1 << 20
SMALL_PAGES = "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=1"
"""The kernel makes huge pages out of small ones when it likes: 2 MiB more, though nobody asked for memory."""


def _rss_bytes(node: NodeProcess) -> int:
    status = Path(f"/proc/{node.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_twenty_answers_in_a_row_leave_no_growth(
    mosquitto: LocalBroker, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", SMALL_PAGES)
    names = [f"node-{index}" for index in range(STAGES)]
    with running_nodes(names, mosquitto.url, tmp_path) as nodes, Ring(mosquitto.url, tiny_model) as ring:
        cuts = even_cuts(tiny_model.manifest.num_units, STAGES)
        ring.deploy({name: nodes[name].home for name in names}, cuts, context_tokens=128, slots=4)
        texts = [ring.ask(PROMPT, 40).ids for _ in range(WARM_UP)]
        before = {name: _rss_bytes(nodes[name]) for name in names}
        texts += [ring.ask(PROMPT, 40).ids for _ in range(ANSWERS)]
        growth = {name: _rss_bytes(nodes[name]) - before[name] for name in names}

    assert all(text == texts[0] for text in texts)
    assert max(growth.values()) <= ALLOWED_GROWTH_BYTES, growth


def test_nodes_take_what_was_planned(mosquitto: LocalBroker) -> None:
    """No more, and not much less, beside what they held when they came. One has two segments, one of them with the
    largest matrix; of the demo's model, whose size counts."""
    store, name = demo_model(default_cache())
    model, caches = store.open(name), {"context_tokens": 512, "slots": 1, "chunk_tokens": 32}
    units = model.manifest.num_units
    with (
        tempfile.TemporaryDirectory(prefix="linguabus-test-", dir=store.home) as home,  # where blobs can be linked
        running_nodes(["ends", "middle"], mosquitto.url, Path(home)) as nodes,
        Ring(mosquitto.url, model) as ring,
    ):
        homes = {name: node.home for name, node in nodes.items()}

        def planned() -> dict[str, int]:
            problem = build_problem(model.manifest, [ring.births[node] for node in homes], wire_dtype="fp16", **caches)
            stages = (Stage("ends", 0, 1), Stage("middle", 1, units - 1), Stage("ends", units - 1, units))
            return {node: predict(problem, stages).of_node(node).memory_bytes for node in homes}

        cuts, order = [0, 1, units - 1, units], ["ends", "middle", "ends"]
        ring.deploy(homes, cuts, wire="fp16", order=order, planned=planned, **caches)
        ring.ask([index * 101 % model.manifest.vocab_size for index in range(440)], 60)  # all over the embedding
        ring.heartbeats.clear()
        ring.wait("heartbeats", lambda: ring.heartbeats.keys() >= homes.keys())
    for node, total_bytes in planned().items():
        before_bytes = ring.births[node].overhead_bytes
        planned_bytes = total_bytes - before_bytes
        assert 0.85 * planned_bytes <= ring.heartbeats[node].peak_rss_bytes - before_bytes <= planned_bytes, node
