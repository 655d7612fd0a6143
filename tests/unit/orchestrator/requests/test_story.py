"""What became of a request can be read back, without anything of its text."""

from __future__ import annotations

from orchestrator.effects import Asker, Publish
from orchestrator.events import Cancelled, Commanded
from orchestrator.requests.story import KEPT_REQUESTS, Story
from schemas.codec import Flag
from schemas.messages import CancelRequest, ShowStory, StoryReply
from tests.support.orchestrating import World, make_submit


def told(world: World, request: str) -> Story:
    story = world.core.plane.stories.story(request)
    assert story is not None
    return story


def lines(story: Story) -> list[str]:
    return [text for entry in story.entries for text in (entry.cause, *entry.decisions)]


def test_a_lost_node_s_chain_of_causes_is_told_in_order() -> None:
    world = World().serve("n1", "n2", "n3", "n4")
    first, second, last = (stage.node for stage in world.plan.ring)
    request = world.ask(make_submit(prompt="hello", max_tokens=50))
    world.generate(request, 1)
    world.wait(0.3)
    world.generate(request, 2)
    world.kill(second)
    world.wait(1.0)
    world.generate(request, 2, flags=Flag.STOP)
    world.wait(2.0)
    story = told(world, request)
    said = lines(story)
    expected = [
        "client cli asked: 1 message, at most 50 tokens",
        "opened on "
        + ", ".join(
            f"{node} (stage {stage} of main, epoch 1-1)" for stage, node in ((2, last), (1, second), (0, first))
        ),
        f"3 tokens from {last} over 0.300 s",
        f"{second} said that it is gone: lost",
        "interrupted after 3 tokens",
        f"epoch 1-1 lost {second}: its successor is ready",
        "opened in epoch 1-2: prompt of 5 tokens, goes on after 3 tokens",
        "told the client: stop, 5 tokens",
    ]
    assert [line for line in said if line in expected] == expected
    assert [entry.at_s for entry in story.entries] == sorted(entry.at_s for entry in story.entries)
    assert story.ended
    assert not any("hello" in line for line in said), "a prompt is nobody's business"


def test_what_happens_elsewhere_is_not_told() -> None:
    world = World(slots=2).serve("a", "b", "c")
    one, other = world.ask(make_submit(1)), world.ask(make_submit(2))
    world.generate(one, 3, flags=Flag.STOP)
    before = lines(told(world, one))
    world.generate(other, 3, flags=Flag.STOP)
    world.kill("a")
    world.wait(3.0)
    after = lines(told(world, one))
    assert not any("lost" in line for line in after), "it had ended by then"
    assert after[: len(before)] == before


def test_a_cancelled_request_says_who_cancelled() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask()
    world.generate(request, 2)
    world.event(Cancelled("cli", CancelRequest(request=request)))
    entry = next(entry for entry in told(world, request).entries if entry.cause == "client cli cancelled")
    assert "told the client: cancelled, 2 tokens" in entry.decisions


def test_a_refused_request_says_why() -> None:
    world = World(model=None).up()
    assert world.core.plane.stories.story("0" * 16) is None
    request = world.ask()
    assert any(line.startswith("told the client: no_model") for line in lines(told(world, request)))


def test_only_so_many_are_kept_and_long_ones_are_cut_in_the_middle() -> None:
    world = World(max_queued=KEPT_REQUESTS + 10).up()
    requests = [world.ask(make_submit(number, client=f"cli-{number}")) for number in range(1, KEPT_REQUESTS + 6)]
    stories = world.core.plane.stories
    assert stories.story(requests[4]) is None
    assert [story.request for story in stories.newest(2)] == [requests[-1], requests[-2]]
    story = Story("x")
    for number in range(300):
        story.heard_tokens("n1", 1, float(number))
        story.add(story.entries.pop())
    assert story.left_out == 100
    assert len(story.entries) == 200
    assert (story.entries[0].at_s, story.entries[-1].at_s) == (0.0, 299.0)


def test_an_operator_is_told_the_story_of_a_request_or_of_the_newest() -> None:
    world = World().serve("a", "b", "c")
    refused = world.control("trace", request=7)
    assert refused
    assert refused.reason.startswith("nobody has asked anything yet: the last 300 since the")
    first, second = world.ask(make_submit(1)), world.ask(make_submit(2))
    world.generate(first, 3, flags=Flag.STOP)
    newest = world.control("trace", request=8)
    assert newest
    assert (newest.result["request"], newest.result["ended"]) == (second, False)
    command = ShowStory(request=first)
    told_of_first = world.core.handle(Commanded(Asker("cli", f"{9:016x}"), command), world.now_s)
    (reply,) = [effect.message for effect in told_of_first if isinstance(effect, Publish)]
    assert isinstance(reply, StoryReply)
    assert (reply.request, reply.ended) == (first, True)
    assert [entry.cause for entry in reply.entries] == [entry.cause for entry in told(world, first).entries]
    assert reply.entries[0].after_s == 0.0
