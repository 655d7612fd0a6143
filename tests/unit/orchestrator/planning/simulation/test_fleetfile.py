"""Fleet files: what they may say, every mistake in one line, and the examples that are shipped."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from orchestrator.planning.errors import PlanningError
from orchestrator.planning.problem import Objective, Pin
from orchestrator.planning.simulation import fleet_document
from orchestrator.planning.simulation.fleetfile import load_fleet, parse_fleet, shipped_fleets
from orchestrator.planning.simulation.play import play
from schemas.contract import dump
from schemas.messages import FleetDivision, ObjectiveName
from tests.support.repository import ROOT

GOOD: dict[str, Any] = {
    "model": {
        "name": "toy",
        "blocks": 8,
        "hidden_bytes": 1024,
        "tied_mb": 20,
        "embed": {"memory_mb": 20},
        "block": {"memory_mb": 10, "disk_mb": 8, "kv_bytes_per_token": 512, "mflops_per_token": 10},
        "head": {"memory_mb": 20, "mflops_per_token": 40},
    },
    "devices": [
        {"name": "laptop", "memory_mb": 90, "block_ms": 1, "head_ms": 4, "hop_ms": 1, "overhead_mb": 5},
        {"name": "phone", "count": 2, "memory_mb": 80, "storage_mb": 500, "block_ms": 3, "hop_ms": 4,
         "batch_speedup": 2, "link_mbit_per_s": 80, "battery_percent": 50, "charging": False},
    ],
    "plan": {
        "objective": "balanced",
        "context_tokens": 512,
        "constraints": {
            "pins": [{"node": "laptop", "start": 0, "stop": 1}],
            "exclude": ["phone-2"],
            "limits": [{"node": "phone-1", "max_share": 0.5, "max_memory_mb": 70}],
            "min_battery_percent": 20,
        },
    },
    "workload": {"streams": 2, "prompt_tokens": 16, "answer_tokens": 8, "duration_s": 5, "seed": 3},
    "events": [{"at_s": 2, "device": "phone-1", "speed": 0.5}, {"at_s": 3, "device": "phone-1", "leaves": True}],
}  # fmt: skip


def with_change(path: tuple[str | int, ...], value: object) -> str:
    """GOOD with one value changed, or removed when it is None."""
    document = copy.deepcopy(GOOD)
    target: Any = document
    for part in path[:-1]:
        target = target[part]
    if value is None:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return yaml.safe_dump(document)


def test_a_fleet_file_becomes_a_problem_a_workload_and_events() -> None:
    fleet = parse_fleet(yaml.safe_dump(GOOD), "toy.yaml")
    problem = fleet.problem
    assert [device.name for device in problem.devices] == ["laptop", "phone-1", "phone-2"]
    assert [device.name for device in problem.eligible] == ["laptop", "phone-1"]
    assert problem.objective is Objective.BALANCED
    assert problem.unit_count == 10
    assert problem.tied_bytes == 20 * 10**6
    assert problem.constraints.pins == (Pin("laptop", 0, 1),)
    phone = problem.devices[1]
    assert phone.decode_s == (0.0, 0.003, 0.0)
    assert phone.batched_s == (0.0, 0.0015, 0.0)
    assert phone.link_bytes_per_s == 1e7
    assert problem.runs[1].flops_per_token == 1e7
    assert (fleet.workload.streams, fleet.workload.seed) == (2, 3)
    assert [(event.speed, event.alive) for event in fleet.events] == [(0.5, None), (None, False)]


def test_a_file_on_disk_is_planned_and_played(tmp_path: Path) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    played = play(load_fleet(str(path)))
    assert played.report is not None
    assert played.report.tokens > 0
    assert json.loads(json.dumps(played.as_dict(), allow_nan=False))["plan"]["objective"] == "balanced"
    assert "simulated 5 s" in played.as_text()


def test_a_fleet_that_is_too_small_is_explained_and_not_played() -> None:
    played = play(parse_fleet(with_change(("model", "block", "memory_mb"), 100), "toy.yaml"))
    assert played.report is None
    assert played.as_text().startswith("No plan: ")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("model",), None, "toy.yaml: model: is missing"),
        (("model",), [1], "toy.yaml: model: must be a mapping"),
        (("model", "blocks"), 0, "model.blocks: must be a whole number of at least 1"),
        (("model", "blocks"), 1.5, "model.blocks: must be a whole number"),
        (("model", "block", "memory_mb"), "much", "model.block.memory_mb: must be a number, not 'much'"),
        (("model", "head"), None, "model.head: is missing"),
        (("model", "layers"), 3, "model.layers: is not a key here; there are block, blocks"),
        (("devices",), [], "devices: must be a list with at least one entry"),
        (("devices", 0, "name"), None, "devices[0].name: is missing"),
        (("devices", 0, "name"), 7, "devices[0].name: must be a text"),
        (("devices", 1, "block_ms"), 0, "devices[1].block_ms: must be above 0"),
        (("devices", 1, "memory_mb"), -1, "devices[1].memory_mb: must not be negative"),
        (("devices", 1, "memory_mb"), float("nan"), "devices[1].memory_mb: must be a number"),
        (("devices", 1, "charging"), "maybe", "devices[1].charging: must be true or false"),
        (("devices", 1, "count"), 10**6, "devices[1].count: must be at most 10000"),
        (("devices", 1), {"name": "laptop", "memory_mb": 1, "block_ms": 1}, "device 'laptop' is listed twice"),
        (("plan", "objective"), "speed", "plan.objective: must be one of latency, throughput, balanced, paper"),
        (("plan", "constraints", "pins", 0, "stop"), 99, "toy.yaml: pin of units 0..99 to 'laptop'"),
        (("plan", "constraints", "exclude"), "phone", "plan.constraints.exclude: must be a list of texts"),
        (("plan", "replicas"), 1, "plan.replicas: must be true or false"),
        (("workload", "warmup_s"), 9, "workload.warmup_s: must be less than duration_s"),
        (("workload", "streams"), True, "workload.streams: must be a number"),
        (("events", 0, "device"), "watch", "events[0].device: no device named 'watch'"),
        (("events", 0, "device"), "labtop", "events[0].device: no device named 'labtop': did you mean 'laptop'?"),
        (("plan", "constraints", "pins", 0, "node"), "laptp", "plan.constraints.pins: no device named 'laptp'"),
        (("plan", "constraints", "exclude"), ["q9"], "plan.constraints.exclude: no device named 'q9'"),
        (("plan", "constraints", "limits"), [{"node": "q9"}], "plan.constraints.limits: no device named 'q9'"),
        (("events", 0, "leaves"), True, "events[0]: needs exactly one of speed, leaves, joins"),
        (("extra",), 1, "toy.yaml: extra: is not a key here"),
    ],
)
def test_every_mistake_is_one_line_that_names_the_place(path: tuple[str | int, ...], value: object, says: str) -> None:
    with pytest.raises(PlanningError) as refused:
        parse_fleet(with_change(path, value), "toy.yaml")
    assert says in str(refused.value)
    assert str(refused.value).startswith("toy.yaml")
    assert "\n" not in str(refused.value)


def test_keys_without_a_value_are_left_out() -> None:
    blank = yaml.safe_dump({**GOOD, "plan": None, "workload": {"streams": None}, "events": None})
    fleet = parse_fleet(blank, "toy.yaml")
    assert fleet.problem.objective is Objective.LATENCY
    assert (fleet.workload.streams, fleet.events) == (1, ())


def test_every_key_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
    sections = [
        one for one in vars(fleet_document).values() if getattr(one, "__module__", "") == fleet_document.__name__
    ]
    keys = {key for section in sections for key in section.__dataclass_fields__}
    assert len(keys) > 50
    assert {key for key in keys if f"`{key}" not in text} == set()


def test_the_words_of_files_are_those_of_the_planner() -> None:
    assert set(get_args(ObjectiveName)) == {objective.value for objective in Objective}


@pytest.mark.parametrize(
    "text", ["model: [", "\t- x", "just text", "- 1\n- 2", "", "[]", f"model: {'9' * 5000}", "model: 2026-99-99"]
)
def test_what_is_not_a_fleet_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(PlanningError) as refused:
        parse_fleet(text, "x.yaml")
    assert "\n" not in str(refused.value)


def test_an_unknown_file_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(PlanningError, match="home, hot-phones, lingualinked-phones"):
        load_fleet(str(tmp_path / "absent.yaml"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanningError, match="can't be read"):
        load_fleet(str(binary))


@pytest.mark.parametrize("name", [name for name in shipped_fleets() if not name.startswith("crowd")])
def test_the_shipped_fleets_play(name: str) -> None:
    played = play(load_fleet(name))
    assert played.report is not None
    assert played.report.tokens > 0
    assert 0.3 < played.report.tokens_per_s / played.report.predicted_tokens_per_s < 1.05


def test_the_shipped_fleets_show_what_they_are_for() -> None:
    assert dump(play(load_fleet("one-is-enough")).plan)["nodes"][0]["node"] == "laptop"
    home = play(load_fleet("home"))
    assert home.report is not None
    assert "pipeline 0 goes on over 2 nodes" in [line.text for line in home.report.diary]
    phones = dump(play(load_fleet("lingualinked-phones")).plan)
    even = next(plan for plan in phones["compared"] if plan["name"] == "even split")
    assert even["times_slower"] > 1.73  # what LinguaLinked reports as the least gain with several streams


def test_a_crowd_is_split_into_pipelines() -> None:
    text = shipped_fleets()["crowd-500"].replace("count: 150", "count: 15").replace("count: 250", "count: 25")
    played = play(
        parse_fleet(text.replace("count: 100,", "count: 10,").replace("streams: 500", "streams: 50"), "crowd")
    )
    assert isinstance(played.plan, FleetDivision)
    assert len(played.plan.pipelines) > 5
    assert played.report is not None
    assert played.report.pipelines == len(played.plan.pipelines)
    assert "pipelines" in played.as_text()
