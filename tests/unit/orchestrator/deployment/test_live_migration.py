"""Open requests are moved to the next plan in mid-answer; what goes wrong before the switch is undone."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.balancing.acceptance import Acceptance, AcceptanceDecision, AcceptanceQuery
from orchestrator.deployment.plan import ReadyPlan
from orchestrator.effects import Note, PlanStandby, Publish
from orchestrator.events import BusDown, BusUp, Cancelled, NodeSaid, Stopping, TokensHeard
from orchestrator.replanning.constraints import PlanConstraints
from schemas.codec import Flag
from schemas.contract import dump
from schemas.messages import (
    CancelRequest,
    CloseRequest,
    CopyKv,
    FinishKv,
    GoOn,
    HoldRequests,
    KvTarget,
    OpenRequest,
    Plan,
    PrepareSegment,
    ReleaseSegment,
    SegmentFailed,
    StreamEnd,
)
from schemas.topics import PLAN
from tests.support.orchestrating import World
from tests.support.scripted_nodes import MB, answer_text, letter, make_submit, token_frame
from tests.support.strategies import examples

BEFORE = [["embed", "a"], ["0-1", "a"], ["2-3", "b"], ["head", "b"]]
AFTER = [["embed", "a"], ["0", "a"], ["1-2", "c"], ["3", "b"], ["head", "b"]]
"""Blocks 1 and 2 (units 2 and 3) go from a and from b to c."""
PHASES = [CopyKv, HoldRequests, FinishKv]
"""What a phase waits for the answer to."""


def serving(speed_flops: float = 1e9, memory_mb: int = 2000, **options: Any) -> World:
    """Three nodes, the model on two of them."""
    world = World(**options)
    world.up()
    world.join("a", "b", "c", speed_flops=speed_flops, memory_mb=memory_mb)
    world.control("apply", 1, pins=BEFORE)
    world.wait(3.0)
    assert [stage.node for stage in world.plan.ring] == ["a", "b"]
    return world


def begin(world: World, until: type | None = None) -> None:
    """Begin the move, and let the answer to one command be missing."""
    for node in world.nodes.values():
        node.deaf = {until} if until else set()
    world.control("apply", 2, pins=AFTER)


def answer(world: World, kind: type) -> None:
    """Give the missing answers."""
    for name, node in world.nodes.items():
        node.deaf.clear()
        for command in world.commands(name, kind)[-1:]:
            world.event(NodeSaid(name, node.answer_move(command)))


def asked(world: World, number: int = 1, tokens: int = 7, max_tokens: int = 20) -> str:
    """A request with a part of its answer."""
    request = world.ask(make_submit(number, max_tokens=max_tokens))
    world.generate(request, tokens)
    return request


def nodes(world: World) -> list[str]:
    return [stage.node for stage in world.plan.ring]


def notes(world: World) -> str:
    return "\n".join(effect.text for effect in world.effects if isinstance(effect, Note))


def finish(world: World, request: str, tokens: int = 13) -> None:
    """Let the answer come to its end, and check its text."""
    world.generate(request, tokens, flags=Flag.LENGTH)
    assert isinstance(world.end(request), StreamEnd)
    assert world.text(request) == answer_text(5, 20)


# --- a move that succeeds ---------------------------------------------------------------------------------------


def test_units_move_in_mid_answer_and_the_text_is_the_same() -> None:
    world = serving()
    request = asked(world)
    old = world.plan
    begin(world)
    assert nodes(world) == ["a", "c", "b"]
    finish(world, request)
    reply = world.reply(2)
    assert reply
    assert reply.result == {"changed": True}
    assert old.epoch < world.plan.epoch
    for name in "abc":
        (prepare,) = [p for p in world.commands(name, PrepareSegment) if p.epoch == world.plan.epoch]
        assert prepare.basis.epoch == old.epoch
        assert prepare.basis.ring == old.ring
    assert (
        "moved units [2, 3) from a to c, [3, 4) from b to c: prepared 0.0 s, copied 2.1 MB in 0.0 s, paused 0 ms"
        in (notes(world))
    )


def test_sources_are_told_what_to_send_to_whom() -> None:
    world = serving()
    asked(world)
    old = world.plan
    begin(world)
    (from_a,), (from_b,) = world.commands("a", CopyKv), world.commands("b", CopyKv)
    assert (from_a.epoch, from_a.stage, from_a.to_epoch) == (old.epoch, 0, world.plan.epoch)
    assert from_a.targets == (KvTarget(stage=1, node="c", start=2, stop=3),)
    assert from_b.targets == (KvTarget(stage=1, node="c", start=3, stop=4),)
    (finish_a,) = world.commands("a", FinishKv)
    assert [(held.tokens, held.valid_tokens) for held in finish_a.requests] == [(12, 11)]
    assert not world.commands("c", CopyKv)


def test_the_order_of_messages() -> None:
    world = serving()
    asked(world, 1)
    asked(world, 2)
    del world.effects[:]
    begin(world)
    sent = [e.message for e in world.effects if isinstance(e, Publish)]
    kinds = [type(message) for message in sent]
    assert max(i for i, kind in enumerate(kinds) if kind is CopyKv) < kinds.index(HoldRequests)
    assert kinds.index(HoldRequests) < kinds.index(FinishKv)
    assert max(i for i, kind in enumerate(kinds) if kind is FinishKv) < kinds.index(OpenRequest) < kinds.index(Plan)
    opened = [message for message in sent if isinstance(message, OpenRequest)]
    assert kinds.index(Plan) > max(i for i, kind in enumerate(kinds) if kind is OpenRequest)
    assert [message.stage for message in opened] == [2, 1, 0, 2, 1, 0]
    assert {message.epoch for message in opened} == {world.plan.epoch}
    assert {message.moved_tokens for message in opened} == {5 + 7 - 1}
    assert opened[2].prompt_ids is not None
    assert len(opened[2].prompt_ids) == 5 + 7
    assert all(message.prompt_tokens == 5 for message in opened)
    commit = next(e for e in world.effects if isinstance(e, Publish) and PLAN.match(e.topic))
    assert commit.retain


def test_standby_units_are_looked_for_once_the_new_ring_has_given_a_token() -> None:
    """Readers have waited for the move: neither the planner nor the nodes' disks are to keep them waiting longer."""
    world = serving()
    request = asked(world)
    begin(world)
    looked_for = [effect.epoch for effect in world.effects if isinstance(effect, PlanStandby)]
    assert world.plan.epoch not in looked_for
    world.generate(request, 1)
    looked_for = [effect.epoch for effect in world.effects if isinstance(effect, PlanStandby)]
    assert looked_for[-1] == world.plan.epoch


def test_who_was_held_first_goes_on_first() -> None:
    """Stage 0 names those first that have waited longest."""
    world = serving()
    requests = [asked(world, number) for number in (1, 2)]
    first = world.nodes["a"]
    first.open = {request: first.open[request] for request in reversed(requests)}
    del world.effects[:]
    begin(world)
    sent = [e.message for e in world.effects if isinstance(e, Publish)]
    begun = [message.request for message in sent if isinstance(message, OpenRequest) and message.stage == 0]
    assert begun == [*reversed(requests)]


def test_where_computing_is_quicker_than_copying_rows_are_computed_again() -> None:
    world = serving(speed_flops=1e13)
    request = asked(world)
    begin(world)
    assert nodes(world) == ["a", "c", "b"]
    assert not world.published(CopyKv)
    assert not world.published(FinishKv)
    assert len(world.published(HoldRequests)) == 1
    assert world.nodes["c"].open[request].moved_tokens == 0
    assert "KV rows are computed again, paused" in notes(world)
    finish(world, request)


def test_a_move_waits_for_prompts_that_are_being_computed_but_not_for_ever() -> None:
    world = serving()
    world.ask(make_submit(1))
    begin(world)
    assert not world.published(HoldRequests)
    world.wait(1.9)
    assert not world.published(HoldRequests)
    world.wait(0.2)
    assert world.published(HoldRequests)
    assert nodes(world) == ["a", "c", "b"]


def test_the_first_token_ends_the_wait() -> None:
    world = serving()
    request = world.ask(make_submit(1, max_tokens=20))
    begin(world)
    world.generate(request, 7)
    assert nodes(world) == ["a", "c", "b"]
    finish(world, request)


def test_rows_of_a_token_that_was_not_heard_are_computed_again() -> None:
    world = serving()
    request = asked(world)
    world.nodes["a"].tokens[request] += 3
    begin(world)
    assert world.nodes["c"].open[request].moved_tokens == 5 + 7 - 1
    finish(world, request)


def test_a_request_that_stage_0_does_not_hold_goes_on_by_replay() -> None:
    world = serving()
    request = asked(world)
    del world.nodes["a"].open[request]
    begin(world)
    assert world.nodes["c"].open[request].moved_tokens == 0
    finish(world, request)


def test_tokens_of_the_old_ring_after_the_switch_are_dropped() -> None:
    world = serving()
    request = asked(world)
    old = world.plan
    begin(world)
    late = token_frame(request, old.epoch, 12, [letter(12)])
    world.event(TokensHeard("main", "b", late))
    assert world.core.plane.requests.tokens_dropped == 1
    finish(world, request)


def test_only_copying_takes_new_requests() -> None:
    world = serving(slots=4)
    asked(world, 1)
    begin(world, until=CopyKv)
    early = world.ask(make_submit(2))
    assert early in world.nodes["a"].open, "decoding goes on, and so does admission"
    world.generate(early, 1)
    for node in world.nodes.values():
        node.deaf = {HoldRequests}
    for name in "ab":
        world.event(NodeSaid(name, world.nodes[name].answer_move(world.commands(name, CopyKv)[-1])))
    late = world.ask(make_submit(3))
    assert late not in world.nodes["a"].open
    answer(world, HoldRequests)
    assert nodes(world) == ["a", "c", "b"]
    assert world.nodes["c"].open[early].moved_tokens == 5
    opened = [m for m in world.commands("a", OpenRequest) if m.request == late]
    assert [(m.epoch, m.moved_tokens) for m in opened] == [(world.plan.epoch, 0)]


def test_without_open_requests_there_is_nothing_to_move() -> None:
    world = serving()
    begin(world)
    assert nodes(world) == ["a", "c", "b"]
    assert not world.published(CopyKv)
    assert not world.published(HoldRequests)


def test_status_shows_a_move_under_way_and_what_became_of_it() -> None:
    world = serving()
    asked(world)
    begin(world, until=CopyKv)
    pipeline = world.core.plane.pipeline
    assert pipeline.state() == "moving"
    world.event(NodeSaid("a", world.nodes["a"].answer_move(world.commands("a", CopyKv)[-1])))
    now = pipeline.moves_view().now
    assert now
    assert (now.phase, now.mode, now.waits_for, now.copied_bytes) == ("copying", "copy", ("b",), MB)
    assert now.expected_bytes == 12 * 1024 * 2
    answer(world, CopyKv)
    view = pipeline.moves_view()
    assert (view.now, view.done, view.failed) == (None, 1, 0)
    assert view.last
    assert view.last.requests == 1
    assert pipeline.state() == "serving"


def test_links_are_learnt_from_what_they_carried() -> None:
    world = serving()
    asked(world)
    begin(world)
    rates = world.core.plane.pipeline._switchover.moves.rates({"a": 1.0, "c": 2.0, "d": 0.0})
    assert rates == {"a": MB / 0.1, "b": MB / 0.1, "c": 2.0}


# --- a move that fails ------------------------------------------------------------------------------------------


def goes_on(world: World, request: str, old: Plan) -> None:
    """The old epoch goes on, everybody knows it, and nothing is lost."""
    assert world.plan == old
    new = max(prepare.epoch for prepare in world.published(PrepareSegment))
    for name in "abc":
        if world.nodes[name].alive:
            assert new in [release.epoch for release in world.commands(name, ReleaseSegment)]
    for name in "ab":
        assert [go_on.epoch for go_on in world.commands(name, GoOn)] == [old.epoch]
    assert world.underway is None
    view = world.core.plane.pipeline.moves_view()
    assert (view.done, view.failed) == (0, 1)
    status = world.control("status")
    assert status
    assert status.result["moves"] == dump(view)
    reply = world.reply(2)
    assert reply
    assert not reply.ok
    late = world.ask(make_submit(9))
    assert late in world.nodes["a"].open
    finish(world, request)


@pytest.mark.parametrize("phase", PHASES)
def test_an_answer_that_does_not_come_ends_the_move(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    begin(world, until=phase)
    world.wait(70.0)
    goes_on(world, request, old)
    assert "a: nothing heard of it" in world.core.plane.pipeline.report.last_failure
    begin(world)
    world.wait(3.0)
    assert nodes(world) == ["a", "c", "b"], "nobody was left out for it"


@pytest.mark.parametrize("phase", PHASES)
def test_the_loss_of_a_node_that_only_the_new_ring_has_ends_the_move(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    begin(world, until=phase)
    world.kill("c")
    goes_on(world, request, old)


@pytest.mark.parametrize("phase", PHASES)
def test_a_stage_that_fails_after_all_ends_the_move_and_its_node_is_left_out(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    begin(world, until=phase)
    failed = SegmentFailed(
        node="c", incarnation=1, pipeline="main", epoch=world.commands("c", PrepareSegment)[-1].epoch,
        reason="no memory for the rows",
    )  # fmt: skip
    world.event(NodeSaid("c", failed))
    assert world.core.plane.pipeline.eligibility.excludes(world.nodes["c"].birth)
    goes_on(world, request, old)


@pytest.mark.parametrize("phase", PHASES)
def test_a_broker_that_was_out_of_reach_ends_the_move(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    begin(world, until=phase)
    world.event(BusDown())
    world.now_s += 1.0
    world.event(BusUp(reconnect=True))
    goes_on(world, request, old)


@pytest.mark.parametrize("phase", PHASES)
def test_a_node_that_cannot_prepare_ends_it_before_it_begins(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    world.nodes["c"].refuses = "disk full"
    begin(world, until=phase)
    assert world.plan == old
    assert not world.published(CopyKv)
    finish(world, request)


@pytest.mark.parametrize("phase", PHASES)
def test_the_loss_of_a_node_of_both_rings_is_an_ordinary_loss(phase: type) -> None:
    world = serving()
    request, old = asked(world), world.plan
    world.join("d", speed_flops=1e9, memory_mb=2000)
    begin(world, until=phase)
    prepared = world.commands("c", PrepareSegment)[-1].epoch
    for node in world.nodes.values():
        node.deaf.clear()
    world.core.plane.pipelines.use_constraints(PlanConstraints())
    world.kill("b")
    world.wait(3.0)
    assert prepared in [release.epoch for release in world.commands("c", ReleaseSegment)]
    assert world.plan.epoch > prepared > old.epoch
    assert "b" not in nodes(world)
    finish(world, request)


@pytest.mark.parametrize("phase", PHASES)
def test_when_a_node_is_lost_that_was_to_be_freed_the_prepared_ring_follows_at_once(phase: type) -> None:
    world = serving()
    request = asked(world)
    for node in world.nodes.values():
        node.deaf = {phase}
    world.control("apply", 2, pins=[["embed", "a"], ["0-1", "a"], ["2-3", "c"], ["head", "c"]])
    prepared = world.commands("c", PrepareSegment)[-1].epoch
    world.kill("b")
    world.wait(0.6)
    assert world.plan.epoch == prepared
    assert nodes(world) == ["a", "c"]
    opened = world.nodes["c"].open[request]
    assert (opened.epoch, opened.moved_tokens) == (prepared, 0)
    finish(world, request)
    reply = world.reply(2)
    assert reply
    assert reply.ok


def test_a_ring_that_breaks_after_the_switch_is_an_ordinary_loss() -> None:
    world = serving()
    request = asked(world)
    begin(world)
    world.core.plane.pipelines.use_constraints(PlanConstraints())
    world.kill("c")
    world.wait(3.0)
    assert "c" not in nodes(world)
    assert world.nodes[world.plan.ring[0].node].open[request].moved_tokens == 0
    finish(world, request)


def test_what_is_said_twice_counts_once() -> None:
    world = serving()
    request, old = asked(world), world.plan
    begin(world, until=HoldRequests)
    for name in "ab":
        world.event(NodeSaid(name, world.nodes[name].answer_move(world.commands(name, CopyKv)[-1])))
    world.wait(6.0)
    goes_on(world, request, old)


def test_what_is_said_about_another_epoch_or_by_another_node_means_nothing() -> None:
    world = serving()
    asked(world)
    begin(world, until=CopyKv)
    move = world.underway
    (copy,) = world.commands("a", CopyKv)
    foreign = world.nodes["a"].answer_move(copy)
    world.event(NodeSaid("c", type(foreign)(**{**fields(foreign), "node": "c"})))
    world.event(
        NodeSaid("a", type(foreign)(**{**fields(foreign), "epoch": world.commands("c", PrepareSegment)[0].epoch}))
    )
    world.event(NodeSaid("a", type(foreign)(**{**fields(foreign), "final": True})))
    world.event(NodeSaid("a", type(foreign)(**{**fields(foreign), "stage": 7})))
    assert world.underway is move
    now = world.core.plane.pipeline.moves_view().now
    assert now
    assert now.waits_for == ("a", "b")


def fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


# --- requests that end meanwhile --------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("how", ["length", "cancelled"])
def test_a_request_that_ends_meanwhile_is_not_moved(phase: type, how: str) -> None:
    world = serving()
    ends, stays = asked(world, 1), asked(world, 2)
    begin(world, until=phase)
    if how == "length":
        finish(world, ends)
    else:
        world.event(Cancelled("cli", CancelRequest(request=ends)))
    end = world.end(ends)
    assert isinstance(end, StreamEnd)
    assert end.finish_reason == how
    assert ends in [close.request for close in world.commands("c", CloseRequest)], "it may hold rows of it"
    answer(world, phase)
    assert nodes(world) == ["a", "c", "b"]
    assert [m.request for m in world.commands("c", OpenRequest)] == [stays]
    finish(world, stays)
    assert [close.request for close in world.commands("c", CloseRequest)] == [ends, stays]


@pytest.mark.parametrize("phase", PHASES)
def test_when_the_last_request_ends_the_switch_comes_at_once(phase: type) -> None:
    world = serving()
    request = asked(world)
    begin(world, until=phase)
    finish(world, request)
    assert nodes(world) == ["a", "c", "b"]
    assert not world.commands("c", OpenRequest)
    assert world.ask(make_submit(2)) in world.nodes["c"].open


def test_after_a_move_ends_are_told_to_its_own_ring_only() -> None:
    world = serving()
    request = asked(world)
    world.control("apply", 2, pins=[["embed", "c"], ["0-1", "c"], ["2-3", "b"], ["head", "b"]])
    assert nodes(world) == ["c", "b"]
    finish(world, request)
    assert not world.commands("a", CloseRequest)


def test_a_clean_stop_in_mid_move_takes_both_rings_down() -> None:
    world = serving()
    asked(world)
    begin(world, until=CopyKv)
    world.event(Stopping())
    assert not world.plan.ring
    assert world.plan.epoch > world.commands("c", PrepareSegment)[-1].epoch
    assert world.commands("c", ReleaseSegment)


# --- too little memory ------------------------------------------------------------------------------------------


def test_who_insists_gets_a_plan_that_does_not_fit_beside_the_old_one_by_interruption() -> None:
    world = World().serve("a", "b", "c", speed_flops=1e9)
    request = asked(world)
    first, _, last = nodes(world)
    assert world.control("apply", 2, pins=[["embed", last], ["head", first]])
    assert [bool(plan.ring) for plan in world.published(Plan)] == [True, False, True]
    assert (nodes(world)[0], nodes(world)[-1]) == (last, first)
    assert not world.published(CopyKv)
    assert "goes on after 7 tokens" in notes(world)
    finish(world, request)


# --- the seams for who decides about plans ----------------------------------------------------------------------


def test_another_judge_decides() -> None:
    world = serving()
    asked(world)
    questions: list[AcceptanceQuery] = []

    def refuse(question: AcceptanceQuery) -> AcceptanceDecision:
        questions.append(question)
        return AcceptanceDecision(Acceptance.STAY, "no")

    world.use_judge(refuse)
    begin(world)
    assert nodes(world) == ["a", "b"]
    reply = world.reply(2)
    assert reply
    assert reply.result == {"changed": False}
    (question,) = questions
    active = world.core.plane.pipeline.active
    assert isinstance(active, ReadyPlan)
    assert question.running is active.plan
    assert (question.work.requests, question.work.positions, question.work.remaining_tokens) == (1, 12, 13)
    assert question.migration
    assert question.migration.copy_bytes == 12 * 2 * 1024


# --- anything in any order --------------------------------------------------------------------------------------

STEPS = ["apply", "copied", "held", "finished", "token", "ask", "cancel", "wait", "lose", "cut"]


class Chaos:
    """A world whose nodes answer a move's commands only when told to, perhaps late, perhaps twice."""

    def __init__(self) -> None:
        self.world = serving(slots=2)
        self.requests: list[str] = []
        self.cancelled: set[str] = set()
        self.applied = 0
        for node in self.world.nodes.values():
            node.deaf = set(PHASES)

    def step(self, what: str) -> None:
        world = self.world
        match what:
            case "apply":
                self.applied += 1
                world.control("apply", 100 + self.applied, pins=BEFORE if self.applied % 2 == 0 else AFTER)
            case "copied" | "held" | "finished":
                kind = {"copied": CopyKv, "held": HoldRequests, "finished": FinishKv}[what]
                for name, node in world.nodes.items():
                    for command in world.commands(name, kind)[-1:]:
                        world.event(NodeSaid(name, node.answer_move(command)))
            case "token":
                for request in self.requests:
                    self.generate(request, 1)
            case "ask" if len(self.requests) < 4:
                self.requests.append(world.ask(make_submit(len(self.requests) + 1, max_tokens=60)))
            case "cancel" if self.requests:
                self.cancelled.add(self.requests[0])
                world.event(Cancelled("cli", CancelRequest(request=self.requests[0])))
            case "wait":
                world.wait(1.5)
            case "lose":
                incarnation = world.nodes["c"].birth.incarnation
                world.kill("c")
                world.join("c", incarnation=incarnation + 1, speed_flops=1e9, memory_mb=2000)
                world.nodes["c"].deaf = set(PHASES)
            case "cut":
                world.event(BusDown())
                world.event(BusUp(reconnect=True))

    def generate(self, request: str, count: int, flags: int = 0) -> None:
        """Tokens from whoever has the last stage, if the request is open there."""
        world = self.world
        if world.plan.ring and request in world.nodes[world.plan.ring[-1].node].open and not world.end(request):
            world.generate(request, count, flags=flags)

    def end(self) -> None:
        """Answer everything from now on, and let all requests come to their end."""
        for node in self.world.nodes.values():
            node.deaf.clear()
        self.world.wait(90.0)
        for _ in range(3):
            for request in self.requests:
                self.generate(request, 60 - len(self.world.text(request)), flags=Flag.LENGTH)
                self.world.wait(3.0)


@given(st.lists(st.sampled_from(STEPS), max_size=30))
@example(["ask", "token", "apply", "copied", "copied", "wait", "wait", "wait", "wait", "wait"])
@example(
    ["ask", "token", "apply", "copied", "held", "lose", "finished", "token", "apply", "copied", "held", "finished"]
)
@examples(30)
def test_whatever_happens_in_whatever_order_every_answer_is_right(steps: list[str]) -> None:
    chaos = Chaos()
    for what in steps:
        chaos.step(what)
    chaos.end()
    for request in chaos.requests:
        end = chaos.world.end(request)
        assert isinstance(end, StreamEnd), (request, end)
        assert chaos.world.text(request) == answer_text(5, len(chaos.world.text(request)))
        assert request in chaos.cancelled or len(chaos.world.text(request)) == 60
    assert chaos.world.core.plane.requests.idle
    assert chaos.world.underway is None
