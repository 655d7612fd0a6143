"""Requests: turns, slots, tokens that are missed, cancels, failures and figures."""

from dataclasses import replace

import pytest

from orchestrator.effects import BuildSegments, Effect, ForgetRequest, Publish, SaveRequest
from orchestrator.events import BusUp, Cancelled, NodeSaid, Submitted, TokensHeard
from orchestrator.timing import Timing
from schemas.codec import Flag
from schemas.messages import (
    CancelRequest,
    CloseRequest,
    Epoch,
    NodeStatus,
    OpenRequest,
    RequestAnswer,
    RequestClosed,
    RequestFailed,
    ResponseTo,
    StageTiming,
    StreamEnd,
    StreamError,
)
from schemas.topics import NODE_COMMAND
from tests.support.orchestrating import World
from tests.support.scripted_nodes import VOCABULARY, answer_text, letter, make_submit, token_frame


@pytest.fixture
def world() -> World:
    return World().serve("a", "b", "c")


def ring(world: World) -> list[str]:
    return [stage.node for stage in world.plan.ring]


def fail(world: World, request: str, code: str, node: str | None = None, epoch: Epoch | None = None) -> None:
    node = node or ring(world)[0]
    failure = RequestFailed(node=node, epoch=epoch or world.plan.epoch, request=request, code=code, reason="why")  # type: ignore[arg-type]
    world.event(NodeSaid(node, failure))


def error_of(world: World, request: str) -> StreamError:
    error = world.end(request)
    assert isinstance(error, StreamError)
    return error


# --- an answer in one message ---------------------------------------------------------------------------------------

SHELF = ResponseTo(topic="linguabus/v1/response/cli/shelf", correlation="00ff")


def responses(effects: list[Effect]) -> list[object]:
    said = [effect for effect in effects if isinstance(effect, Publish) and effect.topic == SHELF.topic]
    assert {effect.correlation for effect in said} <= {SHELF.correlation}
    return [effect.message for effect in said]


def test_who_wants_it_gets_the_whole_answer_besides_the_stream(world: World) -> None:
    request = world.ask(make_submit(max_tokens=3, response=SHELF))
    world.generate(request, 2)
    (answer,) = responses(world.generate(request, 1, flags=Flag.LENGTH))
    assert isinstance(answer, RequestAnswer)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == (world.text(request), "length", 3)
    assert isinstance(world.end(request), StreamEnd)


def test_the_same_question_again_is_answered_again_as_the_first_answer_may_be_lost(world: World) -> None:
    submit = make_submit(max_tokens=1, response=SHELF)
    (answer,) = responses(world.generate(world.ask(submit), 1, flags=Flag.LENGTH))
    assert responses(world.event(Submitted(submit))) == [answer]
    assert responses(world.event(Submitted(replace(submit, client="thief")))) == []


def test_an_error_is_the_answer_too(world: World) -> None:
    request = make_submit(pipeline="other", response=SHELF)
    (error,) = responses(world.event(Submitted(request)))
    assert isinstance(error, StreamError)
    assert error == world.end(request.request)


def test_a_question_that_has_expired_before_its_turn_is_not_answered(world: World) -> None:
    slots = world.plan.slots
    for number in range(1, slots + 1):
        world.ask(make_submit(number, patience_s=600.0))
    late = world.ask(make_submit(slots + 1, patience_s=600.0, response=SHELF, expires_s=5.0))
    world.wait(4.0)
    assert world.end(late) is None
    world.wait(2.0)
    error = error_of(world, late)
    assert (error.code, error.reason.startswith("it expired, as asked: no answer had begun in 5 s")) == ("busy", True)


def test_an_answer_that_has_begun_does_not_expire(world: World) -> None:
    request = world.ask(make_submit(max_tokens=3, patience_s=600.0, expires_s=5.0))
    world.generate(request, 1)
    world.wait(6.0)
    assert world.end(request) is None


# --- an answer --------------------------------------------------------------------------------------------------


def test_an_answer_from_submission_to_end(world: World) -> None:
    request = world.ask(make_submit(max_tokens=6))
    world.wait(0.5)
    world.generate(request, 1)
    world.wait(1.0)
    world.generate(request, 2)
    world.generate(request, 3, flags=Flag.LENGTH)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert world.text(request) == answer_text(5, 6)
    assert (end.finish_reason, end.prompt_tokens, end.completion_tokens) == ("length", 5, 6)
    assert end.ttft_s == pytest.approx(0.5)
    assert end.total_s == pytest.approx(1.5)
    assert end.stages == ()
    assert all(request not in node.open for node in world.nodes.values())


def test_the_last_stage_opens_first_and_the_first_last(world: World) -> None:
    request = world.ask()
    order = [
        topic for node in ring(world) for topic in [NODE_COMMAND.format(node=node)] if world.commands(node, OpenRequest)
    ]
    opened = [e.topic for e in world.effects if getattr(e, "topic", None) in order and is_open(e, request)]
    assert opened == order[::-1]


def is_open(effect: object, request: str) -> bool:
    message = getattr(effect, "message", None)
    return isinstance(message, OpenRequest) and message.request == request


def test_the_end_of_sequence_token_is_not_shown(world: World) -> None:
    request = world.ask()
    world.generate(request, 4, flags=Flag.STOP)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert end.finish_reason == "stop"
    assert end.completion_tokens == 4
    assert world.text(request) == answer_text(5, 3)


def test_figures_are_waited_for_when_asked_for(world: World) -> None:
    request = world.ask(make_submit(stats=True))
    world.generate(request, 8, flags=Flag.LENGTH)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert [timing.node for timing in end.stages] == ring(world)


def test_figures_that_do_not_come_are_waited_for_one_second(world: World) -> None:
    request = world.ask(make_submit(stats=True))
    world.wait(0.5)
    lost = world.nodes[ring(world)[1]]
    lost.open.clear()
    world.generate(request, 8, flags=Flag.LENGTH)
    assert world.end(request) is None
    world.wait(0.9)
    assert world.end(request) is None
    world.wait(0.2)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert [timing.node for timing in end.stages] == [ring(world)[0], ring(world)[2]]
    assert end.total_s == pytest.approx(0.5)


def test_figures_of_somebody_else_are_ignored(world: World) -> None:
    request = world.ask(make_submit(stats=True))
    for node in world.nodes.values():
        node.open = {request: opened for request, opened in node.open.items() if node.name == ring(world)[-1]}
    world.generate(request, 8, flags=Flag.LENGTH)
    liar, victim = ring(world)[1], ring(world)[0]
    for sender, timing in (
        (liar, StageTiming(node=victim, stage=0)),
        (liar, StageTiming(node=liar, stage=0)),
        (liar, StageTiming(node=liar, stage=50)),
    ):
        world.event(NodeSaid(sender, RequestClosed(request=request, timing=timing)))
    world.wait(1.5)
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert [timing.node for timing in end.stages] == [ring(world)[-1]]


# --- turns ------------------------------------------------------------------------------------------------------


def test_only_as_many_requests_are_open_as_there_are_slots(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in range(1, 5)]
    first = world.nodes[ring(world)[0]]
    assert list(first.open) == requests[:2]
    world.generate(requests[1], 8, flags=Flag.LENGTH)
    assert list(first.open) == [requests[0], requests[2]]
    status = world.control("status")
    assert status
    assert (status.result["open_requests"], status.result["queued_requests"]) == (2, 1)


def test_the_queue_has_a_bound() -> None:
    world = World(max_queued=1).serve("a", "b", "c")
    requests = [world.ask(make_submit(number)) for number in range(1, 5)]
    assert [world.end(request) is None for request in requests] == [True, True, True, False]
    assert error_of(world, requests[3]).code == "busy"


def test_a_refused_client_is_told_when_to_ask_again() -> None:
    timing = Timing(queue_s=1000.0, stall_s=1000.0)
    world = World(max_queued=1, slots=1, timing=timing).serve("a", "b", "c")
    first, second, refused = (world.ask(make_submit(number)) for number in (1, 2, 3))
    assert error_of(world, refused).reason == "1 requests wait already: ask again later"
    world.generate(first, 8, flags=Flag.LENGTH)
    world.ask(make_submit(4))
    world.wait(6.5)
    world.generate(second, 8, flags=Flag.LENGTH)
    world.ask(make_submit(5))
    assert error_of(world, world.ask(make_submit(6))).reason == "1 requests wait already: ask again in 7 s"


def test_a_turn_that_does_not_come_is_busy() -> None:
    world = World(slots=1, timing=Timing(queue_s=5.0, stall_s=1000.0)).serve("a", "b", "c")
    world.ask(make_submit(1))
    late = world.ask(make_submit(2))
    world.wait(4.0)
    assert world.end(late) is None
    world.wait(2.0)
    assert error_of(world, late).code == "busy"


def test_a_submission_that_arrives_twice_is_one_request(world: World) -> None:
    request = world.ask()
    world.event(Submitted(make_submit()))
    assert len(world.commands(ring(world)[0], OpenRequest)) == 1
    world.generate(request, 8, flags=Flag.LENGTH)
    world.event(Submitted(make_submit()))
    assert len(world.commands(ring(world)[0], OpenRequest)) == 1


def test_another_pipeline_is_refused(world: World) -> None:
    error = error_of(world, world.ask(make_submit(pipeline="other")))
    assert error.code == "bad_request"
    assert "no pipeline other" in error.reason


def test_a_prompt_longer_than_the_context_is_refused_and_others_go_on() -> None:
    world = World(context_tokens=30).serve("a", "b", "c")
    long = world.ask(make_submit(1, prompt="x" * 40))
    assert error_of(world, long).code == "too_long"
    assert "40 tokens, the context is 30" in error_of(world, long).reason
    request = world.ask(make_submit(2, prompt="x" * 29, max_tokens=100))
    assert world.nodes[ring(world)[0]].open[request].max_tokens == 1


def test_requests_are_remembered_while_they_run(world: World) -> None:
    request = world.ask()
    assert SaveRequest(make_submit()) in world.effects
    assert ForgetRequest(request) not in world.effects
    world.generate(request, 8, flags=Flag.LENGTH)
    assert ForgetRequest(request) in world.effects


# --- tokens that are missed -------------------------------------------------------------------------------------


def test_a_gap_is_asked_for_at_once_and_not_with_every_frame(world: World) -> None:
    request = world.ask(make_submit(max_tokens=20))
    world.generate(request, 2)
    world.generate(request, 1, start=8)
    assert [resend.position for resend in world.resends()] == [7]
    world.generate(request, 1, start=9)
    world.generate(request, 1, start=10)
    assert len(world.resends()) == 1
    world.wait(0.1)
    world.generate(request, 1, start=11)
    assert len(world.resends()) == 1
    world.wait(0.2)
    world.generate(request, 1, start=12)
    assert len(world.resends()) == 2
    world.generate(request, 6, start=7)
    world.generate(request, 12, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 20)


def test_silence_is_asked_about_less_and_less_often(world: World) -> None:
    request = world.ask()
    world.wait(1.9)
    assert not world.resends()
    world.wait(0.2)
    assert [resend.position for resend in world.resends()] == [5]
    world.wait(60.0)
    assert len(world.resends()) == 5, "after 2, 6, 14, 30 and 50 s"
    world.generate(request, 1)
    world.wait(2.1)
    assert len(world.resends()) == 6


def test_a_request_that_a_stage_missed_is_opened_again(world: World) -> None:
    first, middle, _ = ring(world)
    world.nodes[middle].alive = False
    request = world.ask()
    world.nodes[middle].alive = True
    assert request not in world.nodes[middle].open
    world.wait(2.1)
    assert request in world.nodes[middle].open
    assert len(world.commands(first, OpenRequest)) == 2
    world.generate(request, 1)
    world.wait(2.1)
    assert len(world.commands(first, OpenRequest)) == 2, "a ring that works is not told again"


def test_an_end_that_a_stage_missed_reaches_it_when_it_returns(world: World) -> None:
    request = world.ask()
    node = world.nodes[ring(world)[0]]
    status = NodeStatus(node=node.name, incarnation=1, online=False, reason="lost")
    world.event(NodeSaid(node.name, status))
    node.alive = False
    world.generate(request, 8, flags=Flag.LENGTH)
    assert request in node.open
    node.alive = True
    world.event(NodeSaid(node.name, replace(status, online=True)))
    assert request not in node.open
    closes = len(world.commands(node.name, CloseRequest))
    world.event(NodeSaid(node.name, status))
    world.event(NodeSaid(node.name, replace(status, online=True)))
    assert len(world.commands(node.name, CloseRequest)) == closes, "what it confirmed is not repeated"


def test_an_end_that_was_lost_with_the_broker_reaches_a_stage_that_registers_again(world: World) -> None:
    request = world.ask()
    node = world.nodes[ring(world)[0]]
    node.alive = False
    world.generate(request, 8, flags=Flag.LENGTH)
    node.alive = True
    world.event(BusUp(reconnect=True))
    assert request in node.open, "nobody here noticed that the node was away"
    world.event(NodeSaid(node.name, node.birth))
    assert request not in node.open


def test_repeated_and_stray_tokens_change_nothing(world: World) -> None:
    request = world.ask()
    epoch, last = world.plan.epoch, ring(world)[-1]
    world.generate(request, 3)
    world.generate(request, 3, start=5)
    frame = token_frame(request, epoch, 8, [letter(0)])
    other_epoch = token_frame(request, Epoch(generation=9, counter=9), 8, [letter(0)])
    unknown = token_frame("f" * 16, epoch, 8, [letter(0)])
    of_no_vocabulary = [token_frame(request, epoch, 8, [letter(0), token]) for token in (-1, VOCABULARY)]
    for heard in (
        TokensHeard("other", last, frame),
        TokensHeard("main", ring(world)[0], frame),
        TokensHeard("main", last, other_epoch),
        TokensHeard("main", last, unknown),
        *(TokensHeard("main", last, frame) for frame in of_no_vocabulary),
    ):
        world.event(heard)
    assert world.text(request) == answer_text(5, 3)
    assert world.core.plane.requests.tokens_dropped == 8


def test_a_stalled_request_is_begun_anew() -> None:
    """And goes on behind its tokens. For a token that comes it may stall again."""
    world = World(timing=Timing(stall_s=30.0, prefill_token_s=1.0)).serve("a", "b", "c")
    request = world.ask(make_submit(max_tokens=20))
    for tokens in (0, 3, 6):
        if tokens:
            world.generate(request, 3)
        closed = len(world.commands(ring(world)[0], CloseRequest))
        world.wait(30.0 + 5.0 + tokens - 0.5)
        assert len(world.commands(ring(world)[0], CloseRequest)) == closed
        world.wait(2.0)
        assert len(world.commands(ring(world)[0], CloseRequest)) == closed + 1
    world.generate(request, 14, flags=Flag.LENGTH)
    assert world.text(request) == answer_text(5, 20)


def test_a_request_that_stalls_twice_fails_and_frees_its_slots() -> None:
    world = World(timing=Timing(stall_s=30.0, prefill_token_s=0.0)).serve("a", "b", "c")
    request = world.ask()
    world.wait(31.5)
    assert world.end(request) is None
    world.wait(31.0)
    assert error_of(world, request).code == "failed"
    assert all(request not in node.open for node in world.nodes.values())


# --- ends -------------------------------------------------------------------------------------------------------


def test_cancel_reaches_every_stage_and_the_client(world: World) -> None:
    request = world.ask()
    world.generate(request, 2)
    world.event(Cancelled("cli", CancelRequest(request=request)))
    assert all(world.commands(node, CloseRequest) for node in ring(world))
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert (end.finish_reason, end.completion_tokens) == ("cancelled", 2)


def test_cancel_while_waiting_costs_the_nodes_nothing(world: World) -> None:
    requests = [world.ask(make_submit(number)) for number in range(1, 4)]
    world.event(Cancelled("cli", CancelRequest(request=requests[2])))
    end = world.end(requests[2])
    assert isinstance(end, StreamEnd)
    assert end.finish_reason == "cancelled"
    assert not world.commands(ring(world)[0], CloseRequest)


def test_cancel_of_an_interrupted_request_ends_it() -> None:
    world = World().serve("a", "b", "c", "d")
    request = world.ask()
    world.generate(request, 2)
    world.hold = (BuildSegments,)
    world.kill(ring(world)[0])
    world.wait(1.0)
    world.event(Cancelled("cli", CancelRequest(request=request)))
    end = world.end(request)
    assert isinstance(end, StreamEnd)
    assert end.completion_tokens == 2


def test_nobody_cancels_for_another_client(world: World) -> None:
    request = world.ask()
    world.event(Cancelled("mallory", CancelRequest(request=request)))
    assert world.end(request) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [("too_long", "too_long"), ("no_progress", "failed")],
)
def test_a_stage_that_gives_up_ends_the_request(world: World, code: str, expected: str) -> None:
    request = world.ask()
    fail(world, request, code)
    error = error_of(world, request)
    assert error.code == expected
    assert error.reason == f"{ring(world)[0]}: why"
    assert all(world.commands(node, CloseRequest) for node in ring(world))
    fail(world, request, code)
    assert len(world.commands(ring(world)[0], CloseRequest)) == 1


def test_a_request_for_which_a_node_has_no_room_is_opened_again(world: World) -> None:
    """A slot that is counted free is not: the end of an earlier request was lost on the way, and is told again."""
    request = world.ask(make_submit(patience_s=60.0))
    first = ring(world)[0]
    fail(world, request, "busy")
    assert len(world.commands(first, OpenRequest)) == 1
    assert all(len(world.commands(node, CloseRequest)) == 1 for node in ring(world))
    world.wait(1.5)
    assert len(world.commands(first, OpenRequest)) == 2
    world.wait(10.0)
    assert len(world.commands(first, CloseRequest)) == 1, "it goes on"
    world.generate(request, 8, flags=Flag.LENGTH)
    assert isinstance(world.end(request), StreamEnd)


def test_an_end_that_is_not_confirmed_is_told_again_and_again(world: World) -> None:
    request = world.ask()
    deaf = world.nodes[ring(world)[1]]
    react, deaf.react = deaf.react, lambda command: []  # type: ignore[method-assign]
    world.generate(request, 8, flags=Flag.LENGTH)
    world.wait(7.0)
    assert len(world.commands(deaf.name, CloseRequest)) == 3
    deaf.react = react  # type: ignore[method-assign]
    world.wait(10.0)
    told = len(world.commands(deaf.name, CloseRequest))
    world.wait(200.0)
    assert len(world.commands(deaf.name, CloseRequest)) == told
    assert len(world.commands(ring(world)[0], CloseRequest)) == 1


def test_only_the_requests_own_stages_can_end_it() -> None:
    world = World().serve("a", "b", "c", "d")
    request = world.ask()
    (spare,) = set(world.nodes) - set(ring(world))
    fail(world, request, "internal", node=spare)
    assert world.end(request) is None


def test_twenty_requests_leave_nothing_behind(world: World) -> None:
    for number in range(1, 21):
        request = world.ask(make_submit(number))
        world.generate(request, 8, flags=Flag.LENGTH)
    assert world.core.plane.requests.idle
    assert not list(world.core.plane.requests.sessions)
    assert all(not node.open for node in world.nodes.values())


def test_the_failure_of_an_epoch_that_the_request_has_left_does_not_end_it(world: World) -> None:
    request = world.ask(make_submit())
    earlier = Epoch(generation=world.plan.epoch.generation, counter=world.plan.epoch.counter - 1)
    fail(world, request, "no_progress", epoch=earlier)
    assert world.end(request) is None


# --- what requests share ----------------------------------------------------------------------------------------


def test_a_prompt_goes_on_from_the_request_that_begins_as_it_does(world: World) -> None:
    text = make_submit(prompt="one two three four five six seven", max_tokens=6)
    first = world.ask(text)
    world.generate(first, 6, flags=Flag.LENGTH)
    second = world.ask(replace(text, request="00000000000000b2"))
    (_, opened) = world.commands(ring(world)[0], OpenRequest)
    prompt_tokens = opened.prompt_tokens
    assert (opened.prefix_request, opened.prefix_tokens) == (first, prompt_tokens)
    assert second == opened.request


def test_the_last_stage_is_told_the_prompt_only_where_it_guesses(world: World) -> None:
    world.core.plane.requests._draft_tokens = 0
    world.ask()
    assert world.commands(ring(world)[-1], OpenRequest)[0].prompt_ids is None
    world.core.plane.requests._draft_tokens = 4
    world.ask(replace(make_submit(), request="00000000000000b2"))
    opened = world.commands(ring(world)[-1], OpenRequest)[1]
    assert (opened.draft_tokens, opened.draft_windows) == (4, 8)
    assert world.commands(ring(world)[0], OpenRequest)[1].draft_tokens == 4
    assert opened.prompt_ids is not None
    assert all(open_.prompt_ids is None for open_ in world.commands(ring(world)[1], OpenRequest))
