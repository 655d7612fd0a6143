"""What nodes measure of themselves: asked before the first plan, used by it, refined by heartbeats, kept."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.effects import Note, Publish, SaveProfile
from orchestrator.events import ModelOpened, NodeSaid
from orchestrator.fleet.profiles import PROBE_PATIENCE_S, Profiles, fingerprint_of
from orchestrator.model.served import ServedModel
from orchestrator.planning.profile import Profile
from orchestrator.replanning.exclusions import TRIES
from orchestrator.replanning.problem_builder import build_problem
from orchestrator.service.database import Database
from schemas.contract import dump
from schemas.messages import (
    BlobRef,
    NodeProfile,
    PlanConstraints,
    PrepareSegment,
    ProbeNode,
    ProbePart,
    StageMetrics,
    UnitProfile,
)
from tests.support.orchestrating import World
from tests.support.scripted_nodes import Letters, int8_in, make_birth, make_manifest

MANIFEST = make_manifest()
FINGERPRINT = fingerprint_of(MANIFEST)
BLOB = BlobRef(sha256="a" * 64, size_bytes=1)
PARTS = tuple(
    ProbePart(kind=kind, units=units, graph=BLOB, blobs=(BLOB,), kv_layers=(), width_in=64, width_out=64)  # type: ignore[arg-type]
    for kind, units in (("embed", 1), ("block", 1), ("block", 3), ("head", 1))
)


def unit(kind: str, units: int, decode_s: float, batched_s: float | None = None) -> UnitProfile:
    return UnitProfile(
        kind=kind, units=units, decode_s=decode_s, decode_spread_s=0.0, decode_batched_s=batched_s,  # type: ignore[arg-type]
        prefill_s=decode_s / 4, weight_bytes=1,
    )  # fmt: skip


def measured(node: str = "a", *, block_s: float = 0.002, fixed_s: float = 0.001, **changes: object) -> NodeProfile:
    units = (
        unit("embed", 1, fixed_s + 0.0001, 0.001),
        unit("block", 1, fixed_s + block_s, 0.001),
        unit("block", 3, fixed_s + 3 * block_s, 0.002),
        unit("head", 1, fixed_s + 0.005, 0.003),
    )
    profile = NodeProfile(
        node=node, incarnation=1, fingerprint=FINGERPRINT, units=units, hop_s=0.0004, hop_busy_s=0.0001,
        link_bytes_per_s=1e8, took_s=0.5,
    )  # fmt: skip
    return replace(profile, **changes)  # type: ignore[arg-type]


def profile_of(node: str = "a", **changes: object) -> Profile:
    return Profile(
        node=node, fingerprint=FINGERPRINT, threads=1, emulated_speed=1.0, measured=measured(node, **changes),  # type: ignore[arg-type]
        measured_s=0.0,
    )  # fmt: skip


def test_the_slope_is_a_block_and_the_rest_is_fixed() -> None:
    profile = profile_of()
    assert profile.decode_s == pytest.approx((0.0001, 0.002, 0.005))
    assert profile.fixed_s == pytest.approx(0.001)
    assert profile.stage_s((1, 2, 0)) == pytest.approx(0.0051)
    assert profile.decode_batched_s == pytest.approx((0.0005, 0.0005, 0.0025))


def test_noise_gives_no_negative_cost() -> None:
    noisy = replace(measured(), units=(unit("embed", 1, 0.0), unit("block", 1, 0.004), unit("block", 3, 0.003),
                                       unit("head", 1, 0.001)))  # fmt: skip
    profile = replace(profile_of(), measured=noisy)
    assert min(*profile.decode_s, profile.fixed_s) >= 0
    assert profile.decode_s[1] == pytest.approx(0.00075)
    assert profile.decode_batched_s is None


def test_plans_use_what_was_measured() -> None:
    births = [make_birth("a"), make_birth("b")]
    problem = build_problem(
        MANIFEST, births, context_tokens=256, slots=2, wire_dtype="fp16", chunk_tokens=128, profiles={"a": profile_of()}
    )
    first, second = problem.devices
    assert first.decode_s == pytest.approx((0.0001, 0.002, 0.005))
    assert first.hop_s == pytest.approx(0.0014)
    assert first.link_bytes_per_s == 1e8
    assert second.hop_s == births[1].hop_s


class Measuring:
    """A world whose nodes can measure themselves."""

    def __init__(self) -> None:
        self.world = World(model=None)
        self.world.up()
        self.world.core.plane.open_model("tiny")
        self.world.event(ModelOpened("tiny", ServedModel(MANIFEST, Letters(), PARTS)))

    def start(self, *names: str, answers: bool = True) -> World:
        self.world.hold = () if answers else (object,)
        self.world.join(*names)
        return self.world


def test_nodes_are_asked_before_the_first_plan_and_their_refusal_is_enough() -> None:
    world = Measuring().start("a", "b", "c")
    world.wait(3.0)
    assert all(len(world.commands(node, ProbeNode)) == 1 for node in "abc")
    assert world.plan.ring, "scripted nodes refuse, and are planned with what they reported"
    world.wait(30.0)
    assert all(len(world.commands(node, ProbeNode)) == 1 for node in "abc")


def test_nodes_measure_steps_as_the_profile_has_them() -> None:
    births = [make_birth("a")]
    steady = replace(MANIFEST, profile="steady")
    asked = [
        effect.message
        for manifest in (MANIFEST, steady)
        for effect in Profiles().ask(births, ServedModel(manifest, Letters(), PARTS), (), "fp16", 0.0)
        if isinstance(effect, Publish) and isinstance(effect.message, ProbeNode)
    ]
    assert [probe.same_bits for probe in asked] == [False, True]
    assert asked[0].fingerprint != asked[1].fingerprint, "they are measured apart"


def test_a_node_that_hangs_does_not_stop_the_fleet() -> None:
    measuring = Measuring()
    world = measuring.world
    world.join("a", "b", "c")
    world.nodes["b"].react = lambda command: (  # type: ignore[method-assign]
        [] if isinstance(command, ProbeNode) else type(world.nodes["b"]).react(world.nodes["b"], command)
    )
    world.wait(3.0)
    assert world.solves == 0
    world.wait(PROBE_PATIENCE_S)
    assert world.plan.ring


def test_a_node_that_lacks_an_operator_is_left_out_before_anything_is_planned() -> None:
    world = Measuring().world
    world.join("a", "b", "c", "d")
    world.nodes["b"].cant_run = "Foo(-1) is not a registered function/op"
    world.wait(5.0)
    assert {stage.node for stage in world.plan.ring} == {"a", "c", "d"}
    assert not world.commands("b", PrepareSegment)
    said = [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == "set_apart"]
    assert said == ["b can't run the model and is left out: Foo(-1) is not a registered function/op"]
    status = world.control("status")
    assert status
    assert status.result["left_out"] == "b: Foo(-1) is not a registered function/op"
    world.wait(3600.0)
    assert len(world.commands("b", ProbeNode)) == TRIES, "it is not asked for ever"
    assert not world.commands("b", PrepareSegment)


def test_who_is_left_out_is_said_before_what_is_missing_without_it() -> None:
    world = Measuring().world
    world.join("a", "b", "c")
    world.nodes["b"].cant_run = "Foo(-1) is not a registered function/op"
    world.wait(5.0)
    (said,) = [effect.text for effect in world.effects if isinstance(effect, Note) and effect.kind == "no_plan"]
    assert said.startswith("no plan: left out: b: Foo(-1) is not a registered function/op. Without: needs ")


def test_a_node_that_was_updated_is_planned_with() -> None:
    world = Measuring().world
    world.join("a", "b", "c")
    world.nodes["b"].cant_run = "Foo(-1) is not a registered function/op"
    world.wait(5.0)
    world.join("b", incarnation=2)
    world.wait(5.0)
    assert {stage.node for stage in world.plan.ring} == {"a", "b", "c"}


def test_a_profile_is_saved_and_not_asked_for_again() -> None:
    measuring = Measuring()
    world = measuring.world
    world.core.plane.pipelines.profiles.load([profile_of("a")])
    world.join("a", "b", "c")
    world.wait(3.0)
    assert not world.commands("a", ProbeNode)
    assert world.commands("b", ProbeNode)
    effects = world.event(NodeSaid("b", measured("b")))
    assert [effect.profile.node for effect in effects if isinstance(effect, SaveProfile)] == ["b"]


@pytest.mark.parametrize("change", [{"threads": 4}, {"emulated_speed": 0.5}])
def test_a_node_that_runs_differently_is_measured_again(change: dict[str, float]) -> None:
    profiles = Profiles()
    profiles.load([profile_of("a")])
    assert profiles.of([make_birth("a")], MANIFEST)
    assert not profiles.of([make_birth("a", **change)], MANIFEST)
    assert not profiles.of([make_birth("a")], replace(MANIFEST, profile="exact"))


@pytest.mark.parametrize("changes", [{"failure": "it serves requests"}, {"units": ()}, {"hop_s": 0.0}])
def test_an_answer_without_figures_is_not_used(changes: dict[str, object]) -> None:
    profiles = Profiles()
    profiles.answer(make_birth("a"), measured(**changes), 0.0)
    assert not profiles.of([make_birth("a")], MANIFEST)


def test_figures_belong_to_a_type_of_keys_and_values_and_to_how_many_blocks_have_another() -> None:
    mixes = [(), (0, 1, 2, 3), (0, 1, 2)]
    names = [fingerprint_of(MANIFEST.with_rounded_kv(int8_in(*blocks))) for blocks in mixes]
    assert len({FINGERPRINT, *names}) == 4
    others = MANIFEST.with_rounded_kv(int8_in(0, 1, 2, step=2.0))
    assert fingerprint_of(others) == names[2], "other scales cost the same"


def test_heartbeats_tell_how_slow_a_node_is_and_a_change_is_saved_once_it_matters() -> None:
    world = World(models={"tiny": MANIFEST}).serve("a", "b", "c")
    profiles = world.core.plane.pipelines.profiles
    profiles.load([profile_of(node) for node in "abc"])
    node = world.plan.ring[0].node
    for beat in range(20):
        # It may be given fewer units meanwhile.
        stage = next(index for index, ref in enumerate(world.plan.ring) if ref.node == node)
        ref, last = world.plan.ring[stage], MANIFEST.num_units - 1
        counts = (int(ref.start == 0), min(ref.stop, last) - max(ref.start, 1), int(ref.stop > last))
        seen = StageMetrics(
            pipeline="main", epoch=world.plan.epoch, stage=stage, decode_rows=1.0, positions=10 * beat + 10,
            decode_s=(2 + 0.01 * (beat % 2)) * profile_of().stage_s(counts), open_requests=1,
        )  # fmt: skip
        world.condition = {node: {"stages": (seen,)}}
        world.wait(1.0)
    saved = sum(isinstance(effect, SaveProfile) for effect in world.effects)
    (profile,) = profiles.of([make_birth(node)], MANIFEST).values()
    assert profile.drift == pytest.approx(2.0, rel=0.02)
    assert 1 <= saved <= 3
    assert profile.fixed_s == pytest.approx(profile.drift * 0.001)


def test_a_batch_is_expected_to_take_what_was_measured_for_batches() -> None:
    profile = profile_of()
    one_s, four_s = profile.stage_s((1, 2, 0)), 4 * (0.0005 + 0.001 + 2 * 0.0005 - 0.0005)
    assert profile.stage_s((1, 2, 0), 1.0) == one_s
    assert one_s < profile.stage_s((1, 2, 0), 2.5) < profile.stage_s((1, 2, 0), 4.0)
    assert profile.stage_s((1, 2, 0), 4.0) == pytest.approx(four_s, rel=0.4)


def test_profiles_and_constraints_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    with Database(path) as state:
        state.save_profile(replace(profile_of(), drift=1.5), measured_at=0.0)
        state.save_constraints("main", PlanConstraints(exclude=("a",)))
    with Database(path) as state:
        (profile,) = state.profiles(now_s=100.0)
        assert profile.drift == 1.5
        assert profile.measured == measured()
        assert profile.measured_s < 100.0
        assert state.constraints("main") == PlanConstraints(exclude=("a",))
        assert state.constraints("other") == PlanConstraints()


def test_the_view_has_age_spread_and_what_was_observed() -> None:
    profiles = Profiles()
    units = tuple(replace(part, decode_spread_s=0.0003) for part in measured().units)
    profile = replace(profile_of(units=units, hop_spread_s=0.0002), drift=1.5, measured_s=10.0)
    profiles.load([profile])
    one, other = profiles.view([make_birth("a"), make_birth("b", hop_s=0.002)], MANIFEST, now_s=70.0)
    assert (one.node, one.measured, one.age_s) == ("a", True, 60.0)
    assert [one.block_ms, one.block_spread_ms, one.hop_ms, one.hop_spread_ms, one.drift] == pytest.approx(
        [3.0, 0.1, 0.4, 0.2, 1.5]
    )
    assert dump(other) == {"node": "b", "measured": False, "hop_ms": 2.0}


def test_a_preview_says_what_it_rests_on() -> None:
    world = World().serve("a", "b", "c")
    reply = world.control("preview")
    assert reply
    assert [(one["node"], one["measured"]) for one in reply.result["profiles"]] == [
        ("a", False), ("b", False), ("c", False)
    ]  # fmt: skip
