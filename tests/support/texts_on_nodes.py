"""Texts on real nodes, of models whose blocks keep something else than keys and values: those of one session."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from edge_node.requests.guesser import FIRST_CREDIT
from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.requests.round_times import RoundTimes
from orchestrator.model.model import Model
from orchestrator.model.verify import Chain
from tests.support.live_move import move
from tests.support.nodes import NodeProcess
from tests.support.ring import Ring

NAMES = ("alfa", "bravo", "charlie")
PLAN = {"context_tokens": 256, "chunk_tokens": 8}
CUTS = (0, 2, 4, 6)
MOVED = {
    "boundaries shift": (NAMES, (0, 1, 3, 6)),
    "a node is left out": (("charlie", "bravo"), (0, 4, 6)),
    "all change": (("bravo", "charlie", "alfa"), (0, 2, 5, 6)),
}
PROMPT = list(range(7, 40))
OTHER = list(range(201, 214))


def prompt_with_a_first_guess(model: Model, *, right: bool) -> tuple[list[int], list[int]]:
    """A prompt, and its text, whose first guess is right or wrong; whether later ones are made is a matter of times."""
    for start in range(100):
        prompt = list(range(start, start + len(PROMPT)))
        text = Chain(model).greedy(prompt, 100)
        lookup = PromptLookup(list(prompt))
        for position, token in enumerate(text[:-6]):
            lookup.take(len(prompt) + position, [token])
            worth = RoundTimes().worthwhile(lookup.chances(), window=6, windows=1, most=6, credit=FIRST_CREDIT)
            guess = lookup.guess(worth.guesses)
            if guess and (guess[0] == text[position + 1]) is right:
                return prompt, text
            if guess:
                break
    raise AssertionError("no such prompt")


def expect_the_text_of_one_session(broker_url: str, nodes: Mapping[str, NodeProcess], model: Model) -> None:
    """On three nodes: beside another text, with guesses, from a prefix, and moved in mid-answer."""
    homes = {name: node.home for name, node in nodes.items()}
    repeating = OTHER * 3
    longer = [*PROMPT, *OTHER]
    whole = {len(prompt): Chain(model).greedy(prompt, 100) for prompt in (PROMPT, OTHER, longer)}
    whole[len(repeating)] = Chain(model).greedy(repeating, 200)
    assert len(set(whole[len(PROMPT)])) > 3, "the model says something"
    with Ring(broker_url, model) as ring:
        ring.deploy(homes, CUTS, **PLAN)
        together = [ring.open(prompt, 40) for prompt in (PROMPT, OTHER)]
        for answer in together:
            ring.finish(answer)
            assert answer.ids == whole[len(answer.prompt_ids)][:40]
        for right in (True, False):
            prompt, text = prompt_with_a_first_guess(model, right=right)
            guessed = ring.ask(prompt, len(text), draft_tokens=6)
            assert guessed.ids == text
            if right:
                assert guessed.timings[1].decode_steps < len(text) - 1, "no guess was right"
            else:
                assert guessed.timings[1].positions > len(prompt) + len(text) - 1, "no guess was refused"
        reused = ring.ask(longer, 20, prefix=together[0], prefix_tokens=len(PROMPT))
        assert reused.ids == whole[len(longer)][:20]
        assert reused.timings[1].positions == len(OTHER) + 20 - 1, "the prefix was computed again"

        # Few guesses in a long answer: it is not to be over before the moves are.
        moved = [ring.open(PROMPT, 100), ring.open(repeating, 200, draft_tokens=2)]
        for number, (order, cuts) in enumerate(MOVED.values()):
            count = 10 * (number + 1)
            ring.wait("tokens", lambda: min(len(answer.ids) for answer in moved) >= count)  # noqa: B023
            move(ring, homes, order, cuts, **PLAN)
            assert not any(answer.finish for answer in moved), "an answer was over before the move"
        for answer in moved:
            ring.finish(answer)
            assert answer.ids == whole[len(answer.prompt_ids)]
        most = len(PROMPT) + 100 - 1
        assert all(timing.positions <= most for timing in moved[0].timings.values()), "a position was computed again"


def expect_a_replay_after_a_loss(broker_url: str, nodes: Mapping[str, NodeProcess], model: Model) -> None:
    """One of three nodes is killed in mid-answer, and the others go on."""
    homes = {name: node.home for name, node in nodes.items()}
    with Ring(broker_url, model) as ring:
        ring.deploy(homes, CUTS, **PLAN)
        answer = ring.open(PROMPT, 60)
        ring.wait("tokens", lambda: len(answer.ids) >= 10)
        nodes["bravo"].end(signal.SIGKILL)
        left = {name: homes[name] for name in ("alfa", "charlie")}
        plan = ring.prepare(left, (0, 3, 6), **PLAN)
        ring.open_stages(answer, plan, [*answer.prompt_ids, *answer.ids])
        ring.commit(plan)
        ring.finish(answer)
        assert answer.ids == Chain(model).greedy(PROMPT, 60)
