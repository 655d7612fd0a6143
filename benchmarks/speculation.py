"""Guessed tokens and reused prefixes: what they save on slow links, and that they cost nothing elsewhere."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import harness
import speculation_prompts as prompts
from harness import Result, alternate, main, median_result, note
from rings import deployed_ring
from smollm2 import open_smollm2
from speculation_prompts import Prompt

from orchestrator.model.model import Model
from tests.support.ring import Answer, Ring

STAGES = 3
SHORT_LINK_S, LONG_LINK_S = 0.005, 0.020
DRAFT_TOKENS = 8
TOKENS = 128
CONTEXT_TOKENS = 1024
MIX_LIMITS = {"mean": 1.5, "least": 0.97}


@dataclass(frozen=True)
class Kind:
    """Questions of one kind, and by how much guesses are to make their answers faster, by the delay of a link."""

    name: str
    prompts: Sequence[Prompt]
    targets: Mapping[float, float]


KINDS = (
    Kind("text that repeats its source", prompts.REPEATS, {SHORT_LINK_S: 2.4, LONG_LINK_S: 3.5}),
    Kind("code edits", prompts.CODE_EDITS, {SHORT_LINK_S: 2.0}),
    Kind("plain text", prompts.PLAIN, {SHORT_LINK_S: 1.2}),
)


def _ask(ring: Ring, model: Model, ids: Sequence[int], tokens: int, draft_tokens: int) -> Answer:
    return ring.ask(ids, tokens, eos_ids=model.manifest.eos_ids, draft_tokens=draft_tokens)


def _speed(answers: Sequence[Answer]) -> float:
    """Tokens per second, from the first token of each answer on."""
    seconds = sum(answer.arrivals_s[-1] - answer.arrivals_s[0] for answer in answers)
    return sum(len(answer.ids) - 1 for answer in answers) / seconds


def _encoded(model: Model, asked: Sequence[Prompt]) -> list[list[int]]:
    return [list(model.tokenizer().encode_chat(prompt)) for prompt in asked]


def _gains(ring: Ring, model: Model, kind: Kind, delay_s: float, tokens: int, pairs: int) -> list[Result]:
    """What guesses save with one kind of questions, on a ring with slow links."""
    encoded = _encoded(model, kind.prompts)

    def speed(draft_tokens: int) -> float:
        return _speed([_ask(ring, model, ids, tokens, draft_tokens) for ids in encoded])

    measured = alternate(lambda: speed(DRAFT_TOKENS), lambda: speed(0), pairs)
    name = f"{kind.name}, {1000 * delay_s:g} ms each way"
    note(f"{name}: {[round(a / b, 2) for a, b in measured]}")
    target = kind.targets.get(delay_s)
    return [
        median_result(f"{name}: with guesses over without", [a / b for a, b in measured], "ratio", at_least=target),
        median_result(f"{name}: without guesses", [b for _, b in measured], "tokens/s"),
    ]


def _mix(ring: Ring, model: Model, name: str, tokens: int, pairs: int, asked: Sequence[Prompt]) -> list[Result]:
    """What guesses save with each question of a mix: on average, and where they save least."""
    ratios = []
    for ids in _encoded(model, asked):
        measured = alternate(
            lambda ids=ids: _speed([_ask(ring, model, ids, tokens, DRAFT_TOKENS)]),  # type: ignore[misc]
            lambda ids=ids: _speed([_ask(ring, model, ids, tokens, 0)]),  # type: ignore[misc]
            pairs,
        )
        ratios.append(statistics.median(a / b for a, b in measured))
    note(f"{name}: {[round(ratio, 2) for ratio in ratios]}")
    is_slow = "each way" in name
    return [
        Result(
            f"{name}: mean of {len(ratios)} questions, with guesses over without", statistics.mean(ratios), "ratio",
            (min(ratios), max(ratios)), at_least=MIX_LIMITS["mean" if is_slow else "least"],
        ),
        Result(f"{name}: the least of them", min(ratios), "ratio", at_least=MIX_LIMITS["least"]),
    ]  # fmt: skip


def _same_texts(quick: bool) -> Result:
    """How many texts are the same with guesses in the profile that keeps them."""
    model = open_smollm2("steady")
    asked = prompts.MIX[:1] if quick else [prompt for kind in KINDS for prompt in kind.prompts]
    tokens = 12 if quick else TOKENS
    with deployed_ring(model, STAGES, wire="fp16", context_tokens=CONTEXT_TOKENS, link_delay_s=SHORT_LINK_S) as ring:
        same = sum(
            _ask(ring, model, ids, tokens, DRAFT_TOKENS).ids == _ask(ring, model, ids, tokens, 0).ids
            for ids in _encoded(model, asked)
        )
    return Result(f"steady, same texts with guesses, of {len(asked)}", same, "texts", at_least=len(asked))


def _second_turn(model: Model, pairs: int, history_tokens: int) -> list[Result]:
    """Time to the first token of a second turn over that of the first, whose prompt is the history."""
    tokenizer = model.tokenizer()
    text = " ".join((prompts.NEWS, prompts.EMAIL, prompts.ACCOUNT, prompts.TABLE, prompts.SETTINGS))
    ratios = []
    with deployed_ring(model, STAGES, wire="fp16", context_tokens=CONTEXT_TOKENS) as ring:
        ring.ask(list(tokenizer.encode(text))[:64], 2)
        for index in range(pairs):
            first_ids = list(tokenizer.encode(f"{index} {text}"))[:history_tokens]
            first = ring.ask(first_ids, 8)
            question = [*first_ids, *first.ids, *tokenizer.encode("And what is the capital of France?")]
            second = ring.ask(question, 2, prefix=first, prefix_tokens=len(first_ids) + len(first.ids) - 1)
            ratios.append(second.ttft_s / first.ttft_s)
    return [median_result(f"TTFT of turn two over turn one, {history_tokens} tokens", ratios, "ratio", at_most=1 / 3)]


def measure(quick: bool, part: str) -> list[Result]:
    """Guesses with 5 and 20 ms added each way on every node's link, and prefix reuse (`fast`, fp16, three nodes)."""
    model = open_smollm2("fast")
    tokens, pairs = (12, 1) if quick else (TOKENS, harness.PAIRS)
    kinds = KINDS[:1] if quick else KINDS
    mix = prompts.MIX[:1] if quick else prompts.MIX
    results = []
    for delay_s in (SHORT_LINK_S, LONG_LINK_S) if part in ("all", "kinds") else ():
        with deployed_ring(model, STAGES, wire="fp16", context_tokens=CONTEXT_TOKENS, link_delay_s=delay_s) as ring:
            _ask(ring, model, _encoded(model, mix[:1])[0], tokens, 0)
            for kind in kinds:
                if delay_s in kind.targets or delay_s == SHORT_LINK_S:
                    results += _gains(ring, model, kind, delay_s, tokens, pairs)
    for delay_s, name in (
        ((SHORT_LINK_S, "mix, 5 ms each way"), (0.0, "mix, this machine alone")) if part in ("all", "mix") else ()
    ):
        with deployed_ring(model, STAGES, wire="fp16", context_tokens=CONTEXT_TOKENS, link_delay_s=delay_s) as ring:
            _ask(ring, model, _encoded(model, mix[:1])[0], tokens, 0)
            results += _mix(ring, model, name, tokens, min(pairs, 3), mix)
    if part in ("all", "texts"):
        results.append(_same_texts(quick))
    if part in ("all", "prefix"):
        results += _second_turn(model, pairs, 70 if quick else 400)
    return results


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=("all", "kinds", "mix", "texts", "prefix"), default="all")


if __name__ == "__main__":
    main("speculation", measure, add_options=_options)
