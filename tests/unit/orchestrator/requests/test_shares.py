"""What a client may have waiting: as much as it leaves free for others."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.effects import EncodePrompt
from orchestrator.events import Malformed, Renewed
from orchestrator.pipelines.readers import QUESTIONS, REPEATS
from orchestrator.requests.waiting_queue import MOST_WAITING_BYTES
from schemas.messages import RenewRequest, StreamError
from tests.support.orchestrating import World
from tests.support.scripted_nodes import make_submit

PREFIX = {"loud": "1", "quiet": "2", "third": "3"}
"""Of each client's requests."""


def refusals(world: World, client: str) -> list[str]:
    return [e.reason for e in world.published(StreamError) if e.request.startswith(PREFIX[client])]


def ask(world: World, client: str, count: int, prompt: str = "hello") -> None:
    for number in range(count):
        request = f"{PREFIX[client]}{number:015x}"
        world.ask(make_submit(client=client, prompt=prompt, request=request, patience_s=60.0))


def waiting(world: World, client: str) -> int:
    return sum(session.client == client for session in world.core.plane.requests.waiting)


def test_a_client_alone_fills_half_of_the_queue_and_others_find_room() -> None:
    world = World().up()
    ask(world, "loud", 64)
    assert waiting(world, "loud") == 32
    assert refusals(world, "loud")[0] == (
        "32 requests of loud wait already, and what is left is for others: ask again later"
    )
    ask(world, "third", 64)
    ask(world, "quiet", 1)
    assert (waiting(world, "third"), waiting(world, "quiet")) == (16, 1)


def test_what_is_about_to_be_opened_does_not_wait() -> None:
    """Prompts of a crowd that came at once are being encoded, and there is a slot for each."""
    world = World(slots=4).serve("pi", "phone", "tablet")
    free = world.plan.slots
    world.hold = (EncodePrompt,)
    ask(world, "loud", free + 32)
    assert refusals(world, "loud") == []
    ask(world, "loud", free + 33)
    assert len(refusals(world, "loud")) == 1
    ask(world, "quiet", 1)
    assert refusals(world, "quiet") == []


@given(st.lists(st.sampled_from(["loud", "third"]), max_size=200))
def test_there_is_always_room_for_a_client_that_has_nothing_there(asks: list[str]) -> None:
    world = World(max_queued=8).up()
    for number, client in enumerate(asks):
        world.ask(make_submit(client=client, request=f"{PREFIX[client]}{number:015x}", patience_s=60.0))
    ask(world, "quiet", 1)
    assert waiting(world, "quiet") == 1


def test_long_questions_of_one_client_leave_memory_for_others() -> None:
    world = World().up()
    ask(world, "loud", 32, prompt="x" * 1_000_000)
    assert waiting(world, "loud") == MOST_WAITING_BYTES // 2_000_000 + 1
    assert "MB of questions wait already" in refusals(world, "loud")[0]
    ask(world, "quiet", 1, prompt="x" * 1_000_000)
    assert waiting(world, "quiet") == 1


def test_a_client_that_asks_too_often_is_told_when_to_ask_again() -> None:
    world = World().serve("a", "b", "c")
    ask(world, "loud", 1000)
    too_often = f"loud asks more than {QUESTIONS.per_s:g} questions a second: ask again in 1 s"
    assert refusals(world, "loud").count(too_often) == 1000 - QUESTIONS.burst
    ask(world, "quiet", 1)
    assert refusals(world, "quiet") == []
    world.now_s += 1.0
    world.ask(make_submit(client="loud", request="1" * 16))
    assert refusals(world, "loud").count(too_often) == 1000 - QUESTIONS.burst


def test_the_same_question_again_is_never_too_often() -> None:
    world = World().up()
    ask(world, "loud", QUESTIONS.burst)
    before = len(world.published(StreamError))
    world.ask(make_submit(client="loud", request=f"1{0:015x}"))
    assert len(world.published(StreamError)) == before


def test_repeats_and_what_cant_be_read_are_answered_so_often_and_no_more() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask(make_submit(client="quiet", request="2" * 16))
    world.generate(request, 8)
    renew = Renewed("quiet", RenewRequest(request=request, repeat=True))
    repeated = [world.event(renew) for _ in range(REPEATS.burst + 50)]
    assert sum(bool(effects) for effects in repeated) == REPEATS.burst
    world.now_s += 1.0
    assert world.event(renew)
    answered = [world.event(Malformed("loud", None, "not JSON")) for _ in range(1000)]
    assert sum(bool(effects) for effects in answered) == REPEATS.burst
