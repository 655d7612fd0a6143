"""A draft model beside the head: what it takes, where plans put it, and plans without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.commands.plan import describe
from orchestrator.deployment.plan import Solving
from orchestrator.deployment.rollout import why_too_long
from orchestrator.effects import BuildSegments, Note, OpenModel
from orchestrator.model.served import ServedModel
from orchestrator.model.served_draft import ServedDraft, draft_context
from orchestrator.pipelines.pipeline_status import plan_in_force, status_of
from orchestrator.planning.cost import check, predict
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Infeasible, Solution
from orchestrator.replanning.draft_memory import DraftMemory
from orchestrator.replanning.memory_model import (
    SECOND_SESSION_BYTES,
    SESSION_BYTES,
    block_bytes,
    embedding_bytes,
    head_bytes,
    workspace_bytes,
)
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.text.figures import megabytes
from schemas.messages import PrepareSegment
from schemas.run_lengths import SPARE_POSITIONS
from tests.support.orchestrating import Letters, World, plan_quickly
from tests.support.scripted_nodes import MB, make_birth, make_manifest

CACHES = {"context_tokens": 256, "slots": 2}
MODEL = make_manifest()
_DRAFT = make_manifest("draft", blocks=2, block_bytes=3 * MB, tied=True)
DRAFT = replace(_DRAFT, units=tuple(replace(unit, flops_per_token=unit.flops_per_token // 20) for unit in _DRAFT.units))
MEMORY = DraftMemory.of(DRAFT, chunk_tokens=128, **CACHES)
KEPT = DRAFT.kv_bytes_per_token * 256 * 2
ROOMY_MB, TIGHT_MB = 270, 225
"""For the head and the draft but not for the whole model, and for the head alone."""


def problem_for(*memories_mb: int, drafted: bool = True, **changes: Any) -> Problem:
    births = [make_birth(name, memory_mb=size) for name, size in zip("abcd", memories_mb, strict=False)]
    options: dict[str, Any] = {**CACHES, "wire_dtype": "fp16", "chunk_tokens": 128, **changes}
    return build_problem(MODEL, births, draft=DRAFT if drafted else None, **options)


def test_it_is_a_whole_model_in_a_second_session() -> None:
    blocks = block_bytes(DRAFT, DRAFT.units[1], 3 * MB)
    head = head_bytes(DRAFT, 20 * MB, slots=2)
    embedding = embedding_bytes(DRAFT, 20 * MB, tied=True, positions=512)
    workspace = workspace_bytes(DRAFT, chunk_tokens=128, **CACHES)
    fixed = workspace - SESSION_BYTES + SECOND_SESSION_BYTES + MB  # the blocks' common table
    assert MEMORY.peak.serving == fixed + embedding + 2 * blocks.serving + head.serving
    assert MEMORY.peak.loading == fixed + 2 * blocks.loading + head.loading
    assert MEMORY.kv_bytes_per_token == DRAFT.kv_bytes_per_token > 0
    assert MEMORY.disk_bytes == (20 + 2 * 3 + 1) * MB


def test_positions_that_it_does_not_have_take_nothing() -> None:
    short = replace(DRAFT, max_context=128, profile="steady")
    assert draft_context(short, 2048) == 128 - SPARE_POSITIONS
    assert draft_context(short, 64) == 64
    sizes = [DraftMemory.of(short, context_tokens=n, slots=2, chunk_tokens=128) for n in (256, 2048)]
    assert sizes[0] == sizes[1]


def test_the_head_grows_by_it_and_it_is_loaded_when_the_stage_is_there() -> None:
    (*others, head), (*alike, bare) = problem_for(500).runs, problem_for(500, drafted=False).runs
    assert others == alike
    assert head.without_draft == bare
    assert head.weight_bytes - bare.weight_bytes == MEMORY.peak.serving
    assert head.loading_bytes == max(bare.loading_bytes, bare.weight_bytes + MEMORY.peak.loading)
    assert head.kv_bytes_per_token == DRAFT.kv_bytes_per_token
    assert head.stored_bytes - bare.stored_bytes == MEMORY.disk_bytes
    problem = problem_for(500)
    assert problem.unit_memory_bytes(head) == max(head.loading_bytes, head.weight_bytes + KEPT)
    assert problem.draft_bytes == problem.unit_memory_bytes(head) - problem.unit_memory_bytes(bare)
    assert problem.without_draft == problem_for(500, drafted=False)


def test_both_ends_on_a_node_take_what_they_take_one_after_the_other() -> None:
    stages = (Stage("a", 0, 1), Stage("b", 1, 5), Stage("a", 5, 6))
    problem = problem_for(500, 500)
    embed, _, head = problem.runs
    most = max(head.loading_bytes, head.weight_bytes + KEPT + embed.weight_bytes)
    planned = predict(problem, stages).of_node("a").memory_bytes
    assert planned == problem.fixed_bytes(problem.devices[0]) + SECOND_SESSION_BYTES + most


def test_the_head_goes_where_both_fit() -> None:
    problem = problem_for(TIGHT_MB, TIGHT_MB, ROOMY_MB)
    there = (Stage("b", 0, 4), Stage("a", 4, 6))
    assert check(problem, there)[0].startswith("a needs ")
    assert not check(_bare(problem), there)
    found = plan_quickly(problem)
    assert isinstance(found, Solution)
    assert (len(found.stages) > 1, found.stages[-1].node) == (True, "c")
    assert not check(problem, found.stages)


def test_a_node_with_the_whole_model_has_no_draft() -> None:
    problem, bare = problem_for(500), problem_for(500, drafted=False)
    stages = problem.alone(problem.devices[0])
    assert predict(problem, stages) == predict(bare, stages)
    needed = predict(bare, stages).of_node("a").memory_bytes
    barely = problem_for(needed // MB + 1)
    found = plan_quickly(barely)
    assert isinstance(found, Solution)
    assert len(found.stages) == 1


def test_a_stage_is_shown_what_its_units_take_and_the_draft_by_itself() -> None:
    stages = (Stage("a", 0, 3), Stage("b", 3, 6))
    problem, bare = problem_for(500, 500), problem_for(500, 500, drafted=False)
    first, last = predict(problem, stages).stages
    plain = predict(bare, stages).stages
    assert (first, replace(last, draft_bytes=0)) == plain
    assert last.draft_bytes == problem.draft_bytes


# --- without it -----------------------------------------------------------------------------------------------------


def test_where_there_is_no_plan_with_it_the_same_is_asked_without() -> None:
    answer = plan_quickly(problem_for(TIGHT_MB, TIGHT_MB, TIGHT_MB))
    assert isinstance(answer, Infeasible)
    assert answer.fits == problem_for(TIGHT_MB, TIGHT_MB, TIGHT_MB, drafted=False)
    none = plan_quickly(problem_for(60))
    assert none == plan_quickly(problem_for(60, drafted=False)), "what is missing is told without it"


def test_caches_are_made_smaller_before_it_is_left_out() -> None:
    asked = replace(problem_for(300, 300, context_tokens=100_000), least_context_tokens=256)
    answer = plan_quickly(asked)
    assert isinstance(answer, Infeasible)
    assert answer.fits
    assert 256 <= answer.fits.context_tokens < 100_000
    assert answer.fits.without_draft


def test_slots_are_not_given_up_for_one_that_is_not_used() -> None:
    """With it there are plans for fewer requests only, and the best of these is a node that has the whole model."""
    before = replace(problem_for(300, 200, 200, context_tokens=2048, slots=4), least_slots=1)
    answer = plan_quickly(before)
    assert isinstance(answer, Infeasible)
    assert answer.fits
    assert answer.fits.slots < 4
    found = plan_quickly(answer.fits)
    assert isinstance(found, Solution)
    assert len(found.stages) == 1
    model = ServedModel(MODEL, Letters(), draft=ServedDraft(DRAFT))
    first = Solving(1, model, (), 2048, False, before)
    assert first.asked_for_more(found) is None
    second = first.asking(2, answer.fits)
    more = second.asked_for_more(found)
    assert more == before.without_draft
    assert more
    assert second.asking(3, more).asked_for_more(found) is None, "asked once"


# --- in an orchestrator ---------------------------------------------------------------------------------------------


def world_with_draft(memory_mb: int = ROOMY_MB, **options: Any) -> World:
    models = {"tiny": MODEL, "draft": DRAFT}
    world = World(models=models, draft="draft", context_tokens=256, **options).up()
    world.join("a", "b", "c", memory_mb=memory_mb)
    world.wait(3.0)
    return world


def _bare(problem: Problem) -> Problem:
    assert problem.without_draft
    return problem.without_draft


def notes(world: World, kind: str) -> list[str]:
    return [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == kind]


def shown(world: World) -> Any:
    plan = plan_in_force(world.core.plane.pipeline, {})
    assert plan
    return plan


@pytest.fixture
def ring() -> World:
    """A ring of several nodes: none of them has room for all."""
    return world_with_draft()


def test_the_last_stages_node_is_told_of_it(ring: World) -> None:
    assert [effect.draft for effect in ring.effects if isinstance(effect, OpenModel)] == ["draft"]
    (built,) = [effect for effect in ring.effects if isinstance(effect, BuildSegments)]
    assert (built.draft, built.draft_positions) == ("draft", 256)
    stages = ring.plan.ring
    assert len(stages) > 1
    told = {stage.node: ring.commands(stage.node, PrepareSegment)[-1] for stage in stages}
    assert [node for node, command in told.items() if command.draft] == [stages[-1].node]
    draft = told[stages[-1].node].draft
    assert (draft.model, draft.vocab_size, draft.context_tokens) == ("draft", DRAFT.vocab_size, 256)
    active = ring.core.plane.pipeline.active
    assert active
    problem, ring_stages = problem_for(*[ROOMY_MB] * 3), active.plan.solution.stages
    counted, bare = (predict(one, ring_stages).of_node(ring_stages[-1].node) for one in (problem, _bare(problem)))
    assert told[stages[-1].node].planned_bytes == counted.memory_bytes > bare.memory_bytes
    assert active.plan.segments[-1].draft
    assert set(active.plan.segments[-1].draft.files) <= set(active.plan.segments[-1].files)


def test_a_node_that_can_not_use_it_serves_without() -> None:
    models = {"tiny": MODEL, "draft": DRAFT}
    world = World(models=models, draft="draft", context_tokens=256).up()
    world.join("a", "b", "c", memory_mb=ROOMY_MB)
    for node in world.nodes.values():
        node.draft_failure = "it is damaged"
    world.wait(3.0)
    last = world.plan.ring[-1].node
    assert notes(world, "no_draft") == [f"{last} can't use the draft model draft: it is damaged"]


def test_its_files_are_in_use_as_long_as_the_models(ring: World) -> None:
    assert ring.core.plane.models_in_use() == {"tiny", "draft"}
    opening = World(models={"tiny": MODEL, "draft": DRAFT}, draft="draft")
    assert opening.core.plane.models_in_use() == {"tiny", "draft"}


def test_operators_see_it(ring: World) -> None:
    plan = shown(ring)
    assert plan.draft == "draft"
    assert ", draft guesses\n" in describe(plan)
    assert status_of(ring.core.plane.pipeline).draft == "draft"
    assert ring.plan.draft == "draft"


def test_what_is_told_of_it_counts_where_messages_are_short(ring: World) -> None:
    active = ring.core.plane.pipeline.active
    assert active
    last = active.plan.segments[-1]
    assert last.draft
    longer = replace(last, draft=replace(last.draft, blobs=last.draft.blobs * 100))
    plan = replace(active.plan, segments=(*active.plan.segments[:-1], longer), max_message_bytes=8_000)
    assert not why_too_long(replace(plan, segments=active.plan.segments), (), None)
    assert why_too_long(plan, (), None).startswith(f"what {plan.nodes[-1]} has to be told of its part takes a message")


def test_a_fleet_without_room_for_it_serves_without_and_says_so_once() -> None:
    world = world_with_draft(memory_mb=TIGHT_MB)
    assert world.plan.ring
    assert world.plan.draft is None
    assert shown(world).draft is None
    assert not any(world.commands(node, PrepareSegment)[-1].draft for node in world.plan_nodes())
    (told,) = notes(world, "no_draft")
    assert told.startswith("serving without the draft model draft: it needs ")
    assert f"it needs {megabytes(problem_for(1).draft_bytes)} beside the head for 2 requests of 256 tokens" in told
    world.control("replan")
    world.wait(3.0)
    assert len(notes(world, "no_draft")) == 1
    world.join("d", memory_mb=ROOMY_MB)
    world.wait(5.0)
    assert world.plan.draft == "draft", "there is room now"


def test_other_constraints_are_taken_where_there_is_a_plan_without_it() -> None:
    world = world_with_draft(memory_mb=TIGHT_MB)
    world.control("apply", objective="throughput")
    world.wait(5.0)
    answer = world.reply()
    assert answer
    assert answer.ok, answer.reason
    assert shown(world).objective == "throughput"


def test_one_node_with_all_of_the_model_has_none() -> None:
    world = World(models={"tiny": MODEL, "draft": DRAFT}, draft="draft", context_tokens=256).serve("a", memory_mb=900)
    assert (len(world.plan.ring), world.plan.draft) == (1, None)
    (command,) = world.commands("a", PrepareSegment)
    assert command.draft is None
    text = "a has the whole model, where guesses save nothing: the draft model draft is not used"
    assert notes(world, "no_draft") == [text]
    world.control("replan")
    world.wait(3.0)
    assert notes(world, "no_draft") == [text], "once"


def test_a_plan_without_it_is_followed_by_one_that_has_it() -> None:
    world = World(models={"tiny": MODEL, "draft": DRAFT}, context_tokens=256).serve("a", "b", "c", memory_mb=ROOMY_MB)
    before = world.plan
    assert (len(before.ring) > 1, before.draft) == (True, None)
    world._settings = replace(world._settings, draft="draft")
    world.restart()
    world.wait(30.0)
    after = world.plan
    assert (after.epoch > before.epoch, after.draft) == (True, "draft")
    world.control("replan")
    world.wait(5.0)
    assert world.plan.epoch == after.epoch, "nothing else is to be had"


def test_a_plan_that_is_adopted_keeps_its_draft(ring: World) -> None:
    before = ring.plan
    active = ring.core.plane.pipeline.active
    assert active
    planned = [active.plan.planned_bytes(node) for node in active.plan.nodes]
    ring.restart()
    ring.wait(5.0)
    assert ring.plan.epoch == before.epoch
    assert shown(ring).draft == "draft"
    active = ring.core.plane.pipeline.active
    assert active
    assert [active.plan.planned_bytes(node) for node in active.plan.nodes] == planned
    ring._settings = replace(ring._settings, draft=None)
    ring.restart()
    ring.wait(5.0)
    assert ring.plan.epoch == before.epoch
    assert shown(ring).draft == "draft", "its node has it as long as the plan is in force"
