"""From manifest and fleet to the planner's question and the nodes' commands."""

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.effects import Note
from orchestrator.planning.solution import Infeasible
from orchestrator.replanning.memory_model import (
    SECOND_SESSION_BYTES,
    block_bytes,
    embedding_bytes,
    head_bytes,
    spread_bytes,
    workspace_bytes,
)
from orchestrator.replanning.problem_builder import MIN_SPEED_FLOPS, build_problem, context_of
from schemas.messages import StreamError
from schemas.run_lengths import SPARE_POSITIONS
from tests.support.orchestrating import World, plan_quickly
from tests.support.scripted_nodes import MB, int8_in, make_birth, make_manifest

MANIFEST = make_manifest(tied=True)
SETTINGS = {"context_tokens": 256, "slots": 2, "wire_dtype": "fp16", "chunk_tokens": 128}


def problem_for(*births: object, **changes: object):  # type: ignore[no-untyped-def]
    return build_problem(MANIFEST, births, **{**SETTINGS, **changes})  # type: ignore[arg-type]


def test_runs_are_embedding_blocks_head_with_resident_bytes() -> None:
    runs = problem_for(make_birth("a")).runs
    assert [(run.kind, run.start, run.count) for run in runs] == [("embed", 0, 1), ("block", 1, 4), ("head", 5, 1)]
    blocks = block_bytes(MANIFEST, MANIFEST.units[1], 10 * MB)
    head = head_bytes(MANIFEST, 20 * MB, slots=2)
    embedding = embedding_bytes(MANIFEST, 20 * MB, tied=True, positions=512)
    assert [run.weight_bytes for run in runs] == [embedding, blocks.serving, head.serving]
    assert [run.loading_bytes for run in runs] == [0, blocks.loading, head.loading]
    assert [run.disk_bytes for run in runs] == [20 * MB, 10 * MB, 20 * MB]
    assert runs[1].kv_bytes_per_token == 1024


def test_who_set_a_devices_memory_is_kept() -> None:
    free, limited = make_birth("a"), replace(make_birth("b"), memory_is_limited=True)
    assert [device.memory_is_limited for device in problem_for(free, limited).devices] == [False, True]


def test_shared_weights_are_counted_where_they_are() -> None:
    problem = problem_for(make_birth("a"))
    assert problem.tied_bytes == 0, "two sessions keep two copies"
    assert problem.tied_disk_bytes == 20 * MB
    tables = problem.workspace_bytes - workspace_bytes(MANIFEST, chunk_tokens=128, context_tokens=256, slots=2)
    assert tables == MB, "the blocks' common table is on every node"


def test_blocks_that_differ_count_as_their_mean_and_nodes_as_with_those_that_take_most() -> None:
    bigger = replace(MANIFEST.blobs[3], size_bytes=15 * MB)
    manifest = replace(MANIFEST, blobs=(*MANIFEST.blobs[:3], bigger, *MANIFEST.blobs[4:]))
    problem = build_problem(manifest, [make_birth("a")], **SETTINGS)  # type: ignore[arg-type]
    alike = problem_for(make_birth("a"))
    sizes = [block_bytes(manifest, unit, 15 * MB if unit.index == 2 else 10 * MB) for unit in manifest.units[1:-1]]
    assert problem.runs[1].disk_bytes == 15 * MB
    assert problem.runs[1].weight_bytes == math.ceil(sum(size.serving for size in sizes) / 4)
    spread = problem.workspace_bytes - alike.workspace_bytes
    assert spread == spread_bytes([size.serving for size in sizes]) > 3 * MB
    alone = sizes[1].loading
    assert problem.unit_memory_bytes(problem.runs[1]) + spread >= alone, "the largest fits on a node by itself"


def test_blocks_that_keep_more_of_a_text_count_as_their_mean_wherever_a_plan_is_cut() -> None:
    """Keys and values of blocks 1 and 2 in halves, else in int8: no node is given more than it has room for."""
    manifest = MANIFEST.with_rounded_kv(int8_in(0, 3))
    kept = [unit.kv_bytes_per_token for unit in manifest.units]
    assert kept == [0, 64, 128, 128, 64, 0]
    problem = build_problem(manifest, [make_birth("a")], **SETTINGS)  # type: ignore[arg-type]
    (device,), blocks = problem.devices, problem.runs[1]
    assert blocks.kv_bytes_per_token == 96, "of all blocks together no more than they keep"
    for smaller in (problem, problem.with_caches(64, 1)):
        positions = smaller.context_tokens * smaller.slots
        spare = smaller.fixed_bytes(device) - replace(
            smaller, runs=(smaller.runs[0], replace(blocks, kv_spread_bytes=0), smaller.runs[2])
        ).fixed_bytes(device)
        for start, stop in itertools.combinations(range(1, 6), 2):
            assert sum(kept[start:stop]) * positions <= (stop - start) * smaller.unit_cache_bytes(blocks) + spare
    alike = problem_for(make_birth("a"))
    assert alike.runs[1].kv_spread_bytes == 0


def test_a_node_with_both_ends_is_planned_with_the_larger_of_two_peaks_that_come_one_after_the_other() -> None:
    problem = problem_for(make_birth("a"))
    embedding, _, head = problem.runs
    both = sum(map(problem.unit_memory_bytes, (embedding, head))) + problem.both_ends_bytes
    assert both - SECOND_SESSION_BYTES == max(head.loading_bytes, head.weight_bytes + embedding.weight_bytes)


def test_devices_are_what_the_nodes_reported() -> None:
    (device,) = problem_for(make_birth("a", speed_flops=1e9, memory_mb=300)).devices
    assert device.name == "a"
    assert device.memory_bytes == 300 * MB
    assert device.runtime_overhead_bytes == 50 * MB
    assert device.decode_s == (0.0, 0.02, 0.034)
    assert device.hop_s == 0.0003


def test_a_node_that_reports_no_speed_is_slow_not_infinite() -> None:
    (device,) = problem_for(make_birth("a", speed_flops=0.0)).devices
    assert device.decode_s[1] == 20_000_000 / MIN_SPEED_FLOPS


@pytest.mark.parametrize(("wire", "expected"), [("fp32", 256), ("fp16", 129), ("int8", 66)])
def test_activations_have_the_size_of_the_wire(wire: str, expected: int) -> None:
    assert problem_for(make_birth("a"), wire_dtype=wire).activation_bytes == expected


@pytest.mark.parametrize(("asked", "model_max", "expected"), [(None, 8192, 2048), (None, 256, 256), (4096, 8192, 4096)])
def test_the_context_is_what_was_asked_for_within_the_models(asked: int | None, model_max: int, expected: int) -> None:
    assert context_of(make_manifest(max_context=model_max), asked) == expected


def test_dummies_have_room_behind_the_context() -> None:
    """In tables of positions, which end with the model's context, and in KV caches, buffers and their plan."""
    steady = replace(MANIFEST, profile="steady", max_context=256)
    assert context_of(steady, None) == 256 - SPARE_POSITIONS
    assert context_of(steady, 100) == 100
    room = {"chunk_tokens": 128, "context_tokens": 200}
    more = [workspace_bytes(steady, slots=n, **room) - workspace_bytes(MANIFEST, slots=n, **room) for n in (1, 3)]
    assert more[1] - more[0] == 2 * SPARE_POSITIONS * MANIFEST.kv_bytes_per_token


@given(
    memories=st.lists(st.integers(60, 500), min_size=1, max_size=4),
    speeds=st.lists(st.sampled_from([1e8, 1e9, 1e10]), min_size=4, max_size=4),
)
def test_plans_cover_all_units_within_the_memory_of_their_nodes(memories: list[int], speeds: list[float]) -> None:
    births = [
        make_birth(f"n{i}", memory_mb=m, speed_flops=s) for i, (m, s) in enumerate(zip(memories, speeds, strict=False))
    ]
    outcome = plan_quickly(problem_for(*births))
    if isinstance(outcome, Infeasible):
        assert outcome.reason
        return
    edges = [0, *(stage.stop for stage in outcome.stages)]
    assert [stage.start for stage in outcome.stages] == edges[:-1]
    assert edges[-1] == 6
    for birth in births:
        if birth.node in outcome.nodes:
            assert outcome.predicted.of_node(birth.node).memory_bytes <= birth.memory_bytes


def test_a_margin_leaves_a_share_of_what_each_node_may_use_free() -> None:
    """Plans are made for less, and operators see how much."""
    (device,) = problem_for(make_birth("a", memory_mb=300), memory_margin=0.1).devices
    assert device.memory_bytes == 270 * MB
    world = World(memory_margin=0.1).serve("a", "b", "c", memory_mb=300)
    answer = world.control("plan")
    assert answer is not None
    assert answer.result["memory_margin"] == 0.1
    assert {stage["memory_limit_bytes"] for stage in answer.result["stages"]} == {270 * MB}


def small_fleet(**options: Any) -> World:
    """Three nodes that can hold the model with short KV caches only."""
    world = World(models={"tiny": replace(make_manifest(max_context=2048), vocab_size=1024)}, **options).up()
    world.join("a", "b", "c", memory_mb=211)
    world.wait(3.0)
    return world


def test_caches_are_as_large_as_fit_where_nobody_has_said_how_large() -> None:
    world = small_fleet(slots=None)
    assert (world.plan.context_tokens, world.plan.slots) == (1024, 2)
    notes = [note.text for note in world.effects if isinstance(note, Note) and note.kind == "smaller"]
    assert len(notes) == 1
    assert notes[0].startswith("serving 2 at once with 1024 tokens of context instead of 4 with 2048: that needs ")
    assert "; short by " in notes[0]
    world.join("d", memory_mb=500)
    world.wait(3.0)
    assert (world.plan.context_tokens, world.plan.slots) == (2048, 4), "there is room now"


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"slots": None, "context_tokens": 256}, (256, 4)), ({"slots": 1}, (2048, 1)), ({"slots": 2}, (1024, 2))],
)
def test_what_somebody_has_said_stays(options: dict[str, Any], expected: tuple[int, int]) -> None:
    world = small_fleet(**options)
    assert (world.plan.context_tokens, world.plan.slots) == expected


def test_too_much_asked_for_names_what_each_node_has_and_what_would_fit() -> None:
    world = small_fleet(slots=4, context_tokens=2048)
    request = world.ask()
    end = world.end(request)
    assert isinstance(end, StreamError)
    assert end.code == "no_memory"
    assert re.search(r"short by [\d.]+ MB \(a [\d.]+ MB, b [\d.]+ MB, c [\d.]+ MB\); ", end.reason)
    assert end.reason.endswith(", or serve 1 at once instead of 4")
