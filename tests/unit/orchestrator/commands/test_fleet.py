"""nodes, plan and model use, with an orchestrator that says what the test wants; tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.client import Client
from tests.support.fake_orchestrator import FakeOrchestrator

NODE: dict[str, Any] = {
    "label": "Anna's phone",
    "node": "kitchen-phone", "state": "online", "reason": "", "heard_s_ago": 0.2, "incarnation": 1,
    "package_version": "0.1.0", "platform": "Linux aarch64", "python": "3.14.0", "onnxruntime": "1.29.0",
    "threads": 2, "memory_bytes": 1_500_000_000, "overhead_bytes": 62_000_000, "storage_bytes": 8_000_000_000,
    "speed_flops": 6.5e9, "hop_ms": 3.25, "uptime_s": 60.0, "rss_bytes": 410_000_000, "peak_rss_bytes": 420_000_000,
    "available_bytes": 900_000_000, "blob_bytes": 180_000_000, "cpu_percent": 51.0, "battery_percent": 80.0,
    "charging": False, "temperature_c": 36.5, "frames_rejected": 0, "frames_dropped": 0, "reconnects": 0,
    "drained": "", "stages": [{"pipeline": "main", "epoch": "3-1", "stage": 0}], "standby_bytes": 0,
    "battery_serving_percent_per_hour": -11.7, "battery_idle_percent_per_hour": -1.25, "sent_bytes": 48_000_000,
    "received_bytes": 131_000_000, "tokens": 5120, "battery_temperature_c": None, "cost_factor": 1.0, "rtt_ms": None,
    "leaving": "", "flags": [], "max_message_bytes": 1_800_000,
}  # fmt: skip
STAGE: dict[str, Any] = {
    "stage": 0, "node": "kitchen-phone", "start": 0, "stop": 12, "units": "embed, blocks 0-10",
    "predicted_decode_ms": 4.5, "predicted_hop_ms": 3.25, "predicted_prefill_ms": 100.0, "weight_bytes": 90_000_000,
    "kv_bytes": 20_000_000, "planned_bytes": 200_000_000, "memory_limit_bytes": 1_500_000_000,
    "stored_bytes": 42_000_000, "rss_bytes": 180_000_000, "peak_rss_bytes": 190_000_000,
    "downloaded_bytes": 42_000_000, "load_s": 1.5,
}  # fmt: skip
IN_FORCE: dict[str, Any] = {
    "state": "serving", "in_force": True, "next": None,
    "pipeline": "main", "epoch": "3-1", "model": "tiny", "context_tokens": 512, "slots": 2,
    "batches": [1, 2], "wire_dtype": "fp16", "kv_dtype": "int8", "draft": "tinier", "chunk_tokens": 128,
    "memory_margin": 0.0, "unit_count": 12, "stages": [STAGE],
    "objective": "latency", "status": "optimal", "gap": 0.0, "solver": "glpk", "solver_gap": 0.0, "solve_ms": 81.0,
    "predicted_decode_ms": 7.75, "predicted_tokens_per_s": 129.0, "predicted_tokens_per_s_many": 222.2,
    "predicted_ttft_ms": 110.0, "predicted_prompt_tokens": 128, "bottleneck_node": "kitchen-phone", "standby": [],
    "moves": {"now": None, "last": None, "done": 0, "failed": 0, "last_failure": ""},
    "left_out": "",
}  # fmt: skip
PLAN: dict[str, Any] = {**IN_FORCE, "pipelines": [IN_FORCE]}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    with FakeOrchestrator() as orchestrator:
        monkeypatch.setattr(Client, "connect", orchestrator.connect)
        yield orchestrator


def test_nodes_is_a_table(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    silent = {key: None if key in ("rss_bytes", "blob_bytes", "cpu_percent", "battery_percent") else value
              for key, value in NODE.items()}  # fmt: skip
    fake.control["nodes"] = {
        "nodes": [NODE, {**silent, "node": "pi", "label": "", "state": "refused", "reason": "too old"}]
    }
    assert cli.run(["nodes"]) == 0
    _, phone, pi = capsys.readouterr().out.splitlines()
    assert phone.split() == (
        "kitchen-phone Anna's phone online 410 MB 1,500 MB 180 MB 6.5 3.25 51 80 %, -11.7/h serving, -1.2/h idle"
        " 48.0 MB 131 MB 5120 Linux aarch64".split()
    )
    assert pi.split()[:5] == ["pi", "-", "refused:", "too", "old"]


def test_nodes_names_pipelines_where_there_are_several(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]
) -> None:
    second = {"pipeline": "main-2", "epoch": "3-2", "stage": 0}
    gone = {**NODE, "node": "gone", "state": "offline", "stages": [second]}
    fake.control["nodes"] = {"nodes": [gone, NODE]}
    assert cli.run(["nodes"]) == 0
    assert "pipeline" not in capsys.readouterr().out
    others = [{**NODE, "node": "idle", "stages": []}, {**NODE, "node": "pi", "stages": [second]}]
    moving = {**NODE, "node": "tv", "stages": [second, *NODE["stages"]]}
    fake.control["nodes"] = {"nodes": [gone, *others, moving, NODE]}
    assert cli.run(["nodes"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.endswith("pipeline")
    assert [row.split("  ")[-1] for row in rows] == ["-", "-", "main-2", "main, main-2", "main"]


def test_nodes_without_any_says_how_to_start_one(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["nodes"] = {"nodes": []}
    assert cli.run(["nodes", "--broker", "mqtt://localhost"]) == 0
    assert "linguabus node --broker mqtt://localhost" in capsys.readouterr().out


def test_nodes_json_is_what_the_orchestrator_says(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["nodes"] = {"nodes": [NODE]}
    assert cli.run(["nodes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"nodes": [NODE]}


def test_plan_shows_stages_and_prediction(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["plan"] = PLAN
    assert cli.run(["plan"]) == 0
    heading, _, stage, summary = capsys.readouterr().out.splitlines()
    settings = "512 tokens of context, 2 requests at once in 2 batches, fp16 on the wire, keys and values in int8"
    assert heading == f"tiny in epoch 3-1: {settings} (in 1 of 10 blocks in fp16), tinier guesses"
    assert "kitchen-phone  embed, blocks 0-10" in stage
    assert stage.split()[-8:] == ["200", "MB", "1,500", "MB", "190", "MB", "42", "MB"]
    assert "129.0 tokens/s" in summary
    assert [command.operation for command in fake.commanded] == ["plan"]
    fake.control["plan"] = {**PLAN, "memory_margin": 0.1}
    assert cli.run(["plan"]) == 0
    assert "memory limits leave 10% of each node's memory free" in capsys.readouterr().out


def test_plan_shows_standby_units(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    phone = {"node": "kitchen-phone", "node_bytes": 30_000_000, "node_bytes_on_disk": 20_000_000}
    standby = [
        {**phone, "start": 0, "stop": 1, "units": "embed"},
        {**phone, "start": 12, "stop": 14, "units": "blocks 11-12"},
        {"node": "pi", "start": 1, "stop": 2, "units": "block 0", "node_bytes": 9_000_000, "node_bytes_on_disk": None},
    ]
    fake.control["plan"] = {**PLAN, "standby": standby}
    assert cli.run(["plan"]) == 0
    assert capsys.readouterr().out.splitlines()[3:5] == [
        "kitchen-phone keeps embed; blocks 11-12 on standby: 20 MB of 30 MB on disk",
        "pi keeps block 0 on standby: 9 MB",
    ]


def test_plan_shows_the_move_under_way_or_the_last_one(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]
) -> None:
    now = {
        "phase": "copying", "from_epoch": "3-1", "to_epoch": "3-2", "units": "units [2, 5) from pi to kitchen-phone",
        "mode": "copy", "expected_bytes": 40_000_000, "copied_bytes": 10_000_000, "waits_for": ["pi"],
    }  # fmt: skip
    last = {"units": "units [1, 2) from pi to tv", "paused_s": 0.0123}
    for moves, line in (
        ({"now": now}, f"moving {now['units']} to epoch 3-2: copying, 10 MB of 40 MB copied, waits for pi"),
        ({"now": {**now, "mode": "prefill", "waits_for": []}}, f"moving {now['units']} to epoch 3-2: copying"),
        ({"last": last}, "last move: units [1, 2) from pi to tv, readers waited 12 ms"),
    ):
        fake.control["plan"] = {**PLAN, "moves": {**PLAN["moves"], **moves}}
        assert cli.run(["plan"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(line)


def test_plan_names_who_is_left_out(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["plan"] = {**PLAN, "left_out": "tablet: ONNX Runtime can't open the segment"}
    assert cli.run(["plan"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "left out: tablet: ONNX Runtime can't open the segment"


def test_plan_shows_what_is_on_its_way(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [
        {"node": "a", "start": 0, "stop": 12, "units": "embed, blocks 0-10"},
        {"node": "b", "start": 12, "stop": 13, "units": "head"},
    ]
    coming = {"state": "rolling out", "epoch": "3-3", "model": "tiny", "stages": stages}
    exchanged = {**IN_FORCE, "in_force": False, "next": coming}
    fake.control["plan"] = {**exchanged, "pipelines": [exchanged]}
    assert cli.run(["plan"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "This plan was in force until now; another one is on its way."
    assert last == "next: tiny in epoch 3-3, rolling out: a (embed, blocks 0-10) > b (head)"


def test_plan_again_replans_first(fake: FakeOrchestrator) -> None:
    fake.control |= {"plan": PLAN, "replan": {"changed": False}}
    assert cli.run(["plan", "--again"]) == 0
    assert [command.operation for command in fake.commanded] == ["status", "replan", "plan"]


def test_no_plan_says_why(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["plan"] = "needs 3.1 GB, the fleet has 2.4 GB; short by 0.7 GB"
    assert cli.run(["plan"]) == 2
    assert capsys.readouterr() == ("", "Error: needs 3.1 GB, the fleet has 2.4 GB; short by 0.7 GB\n")


def test_a_refused_command_is_the_users_mistake(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["replan"] = "no model is active"
    assert cli.run(["plan", "--again"]) == 2
    assert capsys.readouterr().err == "Error: no model is active\n"


def test_model_use_tells_a_running_orchestrator(
    fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr("orchestrator.model.store.ModelStore.show", lambda self, name: None)
    monkeypatch.setattr("orchestrator.model.store.ModelStore.use", lambda self, name: chosen.append(name))
    fake.control["use_model"] = "--pin 4-5=n1: there are no blocks 4-5"
    assert cli.run(["--home", str(tmp_path), "model", "use", "tiny"]) == 2
    assert capsys.readouterr().err == "Error: --pin 4-5=n1: there are no blocks 4-5\n"
    assert chosen == []
    fake.control["use_model"] = {"model": "tiny"}
    assert cli.run(["--home", str(tmp_path), "model", "use", "tiny"]) == 0
    assert chosen == ["tiny"]
    assert fake.commanded[-1].arguments == {"model": "tiny"}
    assert capsys.readouterr().out == "tiny is active and served\n"


EXPLAINED = {
    "feasible": False, "objective": "latency", "reason": "needs 3.1 GB, the fleet has 2.4 GB", "missing_bytes": 1,
    "smallest_fix": "free 0.7 GB on 'a'", "fixes": ["free 0.7 GB on 'a'", "serve 1 at once"],
}  # fmt: skip


def test_preview_passes_the_constraints_on(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    phone = {"measured": True, "age_s": 7_300.0, "block_ms": 1.5, "block_spread_ms": 0.25, "hop_spread_ms": 0.5}
    profiles = [
        {"node": "a", "hop_ms": 3.0, "drift": 1.25, **phone},
        {"node": "b", "measured": False, "hop_ms": 2.0},
    ]
    fake.control["preview"] = {"constraints": {}, "explanation": EXPLAINED, "profiles": profiles}
    words = (
        "plan preview --objective throughput --exclude a --pin ends=b --max-memory c=900 --context 512"
        " --min-battery 30 --only-on-charger"
    )
    assert cli.run(words.split()) == 2
    shown = capsys.readouterr().out
    assert "Smallest fix: free 0.7 GB on 'a'." in shown
    *_, a, b = shown.splitlines()
    assert a.split() == ["a", "2", "hours", "1.500", "0.250", "3.00", "0.50", "1.25", "x"]
    assert b.split() == ["b", "not", "measured", "2.00"]
    assert fake.commanded[-1].arguments["constraints"] == {
        "objective": "throughput", "exclude": ["a"], "pins": [["ends", "b"]], "max_memory_mb": [["c", 900]],
        "context_tokens": 512, "min_battery_percent": 30, "only_on_charger": True,
    }  # fmt: skip


def test_preview_json_has_every_constraint(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    constraints = {
        "objective": "latency", "exclude": ["a"], "pins": [["ends", "b"]], "max_memory_mb": [["c", 900]],
        "context_tokens": None, "min_battery_percent": None, "only_on_charger": False,
    }  # fmt: skip
    fake.control["preview"] = {"constraints": constraints, "explanation": EXPLAINED, "profiles": []}
    assert cli.run(["plan", "preview", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said == {"constraints": constraints, "explanation": EXPLAINED, "profiles": []}


def test_names_that_no_node_can_have_are_one_line(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "apply", "--exclude", "old tablet"]) == 2
    assert capsys.readouterr().err.startswith("Error: exclude[0]: does not match ")
    assert fake.commanded == []


@pytest.mark.parametrize("words", ["--pin embed", "--pin =a", "--max-memory a=much", "--objective fame", "--context 1"])
def test_constraints_that_can_not_be_read(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "preview", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert error.count("\n") == 1


def test_apply_shows_the_plan_that_came_of_it(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control |= {"apply": {"changed": False}, "plan": PLAN}
    assert cli.run(["plan", "apply", "--context", "100000"]) == 0
    assert capsys.readouterr().err == "note: tiny takes no more than 512 tokens, which are its context now\n"
    assert cli.run(["plan", "apply"]) == 0
    assert capsys.readouterr().out.startswith("This is the plan in force already.")


def test_the_plans_of_all_pipelines_are_shown(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["plan"] = {**PLAN, "pipelines": [IN_FORCE, {**IN_FORCE, "pipeline": "main-2", "epoch": "3-2"}]}
    assert cli.run(["plan"]) == 0
    shown = capsys.readouterr().out
    assert "main: tiny in epoch 3-1" in shown
    assert "main-2: tiny in epoch 3-2" in shown


def history() -> dict[str, Any]:
    figures = {"predicted_tokens_per_s_many": 90.0, "predicted_ttft_ms": 12.0, "unit_count": 32, "slots": 4}
    now = ("state", "in_force", "next", "standby", "moves", "left_out")
    view = {key: value for key, value in IN_FORCE.items() if key not in now}
    older = {**view, **figures, "epoch": "1-1", "committed_at": 0.0}
    stages = [
        {**PLAN["stages"][0], "node": "x", "start": 0, "stop": 2, "stored_bytes": 5_000_000},
        {**PLAN["stages"][0], "node": "y", "start": 2, "stop": 32, "stored_bytes": 80_000_000},
    ]
    return {"plans": [{**older, "epoch": "1-2", "stages": stages, "predicted_decode_ms": 5.0}, older]}


def test_history_and_diff(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["history"] = history()
    assert cli.run(["plan", "history"]) == 0
    assert "x 2 > y 30" in capsys.readouterr().out
    assert cli.run(["plan", "diff", "1-1", "1-2"]) == 0
    text = capsys.readouterr().out
    assert "embed, block 0" in text
    assert "-> 5.0 ms" in text
    assert cli.run(["plan", "diff", "1-2", "1-2"]) == 0
    assert "Every node keeps its units." in capsys.readouterr().out
    assert cli.run(["plan", "diff", "1-2", "9-9"]) == 2
    assert "no plan 9-9" in capsys.readouterr().err


def test_simulate_plays_a_shipped_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "home", "--json"]) == 0
    played = json.loads(capsys.readouterr().out)
    assert played["plan"]["feasible"]
    assert played["report"]["tokens"] > 0
    assert cli.run(["simulate", "home", "--balance", "on", "--json"]) == 0
    decisions = json.loads(capsys.readouterr().out)["decisions"]
    assert {entry["verdict"] for entry in decisions[0]} >= {"stay", "ask"}
    assert cli.run(["simulate", "nowhere.yaml"]) == 2
    assert "give a YAML file" in capsys.readouterr().err
