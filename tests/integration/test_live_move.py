"""Layers change nodes in the middle of answers, with their KV rows: real processes, a real broker, the same text."""

from __future__ import annotations

from broker.local_broker import LocalBroker
from orchestrator.model.model import Model
from schemas.messages import Sampling
from tests.support.live_move import move
from tests.support.nodes import NodeProcess
from tests.support.ring import Answer, Ring

PLAN = {"context_tokens": 256, "chunk_tokens": 8}
BEGIN = (("alfa", "bravo"), (0, 3, 6))
MOVES = {
    "a boundary shifts": (("alfa", "bravo"), (0, 2, 6)),
    "a node is added": (("alfa", "charlie", "bravo"), (0, 2, 4, 6)),
    "a node is removed": (("alfa", "bravo"), (0, 4, 6)),
    "the first stage moves": (("charlie", "bravo"), (0, 4, 6)),
    "both ends go to one node": (("charlie", "bravo", "charlie"), (0, 1, 5, 6)),
    "all change": (("bravo", "alfa"), (0, 3, 6)),
}
PROMPT = list(range(7, 40))
SEEDED = Sampling(temperature=0.9, top_k=40, seed=17, repetition_penalty=1.2)


def test_text_of_moves_in_mid_answer(mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model) -> None:
    homes = {name: node.home for name, node in nodes.items()}
    with Ring(mosquitto.url, tiny_model) as ring:
        ring.deploy(homes, BEGIN[1], order=BEGIN[0], **PLAN)
        undisturbed = [ring.open(PROMPT, 180), ring.open(PROMPT[:9], 180, sampling=SEEDED)]
        for answer in undisturbed:
            ring.finish(answer)
        long_prompt = [*PROMPT, *PROMPT, *PROMPT]
        expected = ring.ask(long_prompt, 4).ids
        answers = [ring.open(PROMPT, 180), ring.open(PROMPT[:9], 180, sampling=SEEDED)]
        prompts: list[Answer] = []
        for number, (order, cuts) in enumerate(MOVES.values()):
            count = 10 * (number + 1)
            ring.wait("tokens", lambda: len(answers[0].ids) >= count)  # noqa: B023
            move(ring, homes, order, cuts, before_hold=lambda: prompts.append(ring.open(long_prompt, 4)), **PLAN)
            assert not answers[0].finish, "the answer was over before the move"
            assert ring.held[0].requests[-1].tokens == len(long_prompt), "the prompt was computed before the move"
            ring.finish(prompts[-1])
        for answer, other in zip(answers, undisturbed, strict=True):
            ring.finish(answer)
            assert answer.ids == other.ids
            assert answer.timings[1].positions < len(answer.prompt_ids) + 179, "charlie was not there from the start"
            assert answer.timings[0].positions == len(answer.prompt_ids) + 179, "no position twice"
        for prompt in prompts:
            assert prompt.ids == expected
            assert {timing.positions for timing in prompt.timings.values()} <= set(range(len(long_prompt) + 4))


def test_a_move_while_tokens_are_guessed(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model
) -> None:
    homes = {name: node.home for name, node in nodes.items()}
    with Ring(mosquitto.url, tiny_model) as ring:
        ring.deploy(homes, BEGIN[1], order=BEGIN[0], **PLAN)
        undisturbed = ring.ask(PROMPT * 2, 120)
        answer = ring.open(PROMPT * 2, 120, draft_tokens=6)
        for count in (15, 40):
            ring.wait("tokens", lambda: len(answer.ids) >= count)  # noqa: B023
            move(ring, homes, ("alfa", "charlie", "bravo"), (0, 1, 3 + (count == 40), 6), **PLAN)
        assert not answer.finish
        ring.finish(answer)
        assert answer.ids == undisturbed.ids
