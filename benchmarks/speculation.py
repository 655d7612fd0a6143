"""Guessed tokens and reused prefixes: what they save on slow links, and that they cost nothing elsewhere.

The draft models are SmolLM2's own: all of it, which is right nearly always (what guesses can give at the most), and its
first blocks, which are right seldom (what a draft model costs that is no good, until it is left alone).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import harness
import speculation_prompts as prompts
from gguf_models import open_gguf
from harness import Result, alternate, main, median_result, note
from rings import deployed_ring
from self_draft import self_draft
from smollm2 import open_smollm2
from speculation_prompts import Prompt

from orchestrator.commands.demo_model import demo_checkpoint
from orchestrator.commands.settings import default_cache
from orchestrator.model.model import Model
from orchestrator.model.precision import AUTO
from schemas.messages import Sampling
from tests.support.ring import Answer, Ring

STAGES = 3
SHORT_LINK_S, LONG_LINK_S = 0.005, 0.020
DRAFT_TOKENS = 8
TOKENS = 128
CONTEXT_TOKENS = 1024
MIX_RINGS = ((3, SHORT_LINK_S, 1, "mix, 5 ms each way"), (2, 0.0, 2, "mix, two nodes of this machine"))
"""Nodes, delay, and how many times `TOKENS` each speed is of: without delays more, since a second of this machine says
little."""
MIX_MEAN, MIX_LEAST = 1.5, 0.97
DRAFT_BLOCKS = 6
SAME_TEXTS, SAME_TOKENS = 160, 32
SEEDS = 8
TEMPERATURE = 0.8


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


def _ask(
    ring: Ring, model: Model, ids: Sequence[int], tokens: int, draft_tokens: int, sampling: Sampling | None = None
) -> Answer:
    return ring.ask(ids, tokens, eos_ids=model.manifest.eos_ids, draft_tokens=draft_tokens, sampling=sampling)


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


def _mix(
    ring: Ring, model: Model, name: str, tokens: int, rounds: int, pairs: int, questions: Sequence[Prompt]
) -> list[Result]:
    """What guesses save with each question of a mix: on average, and where they save least.

    A speed is of ``rounds`` x ``tokens`` tokens: a question is asked as often as it takes, by turns with and without.
    """
    ratios = []
    for ids in _encoded(model, questions):
        times = -(-rounds * tokens // len(_ask(ring, model, ids, tokens, 0).ids))

        gains = []
        for _ in range(pairs):
            asked = [[_ask(ring, model, ids, tokens, guessed) for guessed in (DRAFT_TOKENS, 0)] for _ in range(times)]
            guessing, plain = zip(*asked, strict=True)
            gains.append(_speed(guessing) / _speed(plain))
        ratios.append(statistics.median(gains))
    note(f"{name}: {[round(ratio, 2) for ratio in ratios]}")
    spread = min(ratios), max(ratios)
    mean = f"{name}: mean of {len(ratios)} questions, with guesses over without"
    return [
        Result(mean, statistics.mean(ratios), "ratio", spread, at_least=MIX_MEAN),
        Result(f"{name}: the least of them", min(ratios), "ratio", at_least=MIX_LEAST),
    ]


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


def _first_blocks() -> Model:
    return open_gguf(self_draft(demo_checkpoint(default_cache()), range(DRAFT_BLOCKS)), AUTO)


def _draft_gains(quick: bool, tokens: int, pairs: int) -> list[Result]:
    """Plain text with a draft model over without any guesses, beside the look-up alone."""
    model = open_smollm2("fast")
    drafts: dict[str, Callable[[], Model | None]] = {
        "look-up alone": lambda: None,
        "itself as draft model": lambda: model,
        f"{DRAFT_BLOCKS} blocks of it as draft model": _first_blocks,
    }
    results = []
    for delay_s in (LONG_LINK_S,) if quick else (SHORT_LINK_S, LONG_LINK_S):
        for name, draft in drafts.items():
            options = {"context_tokens": CONTEXT_TOKENS, "link_delay_s": delay_s, "draft": draft()}
            with deployed_ring(model, STAGES, wire="fp16", **options) as ring:  # type: ignore[arg-type]
                _ask(ring, model, _encoded(model, prompts.PLAIN[:1])[0], tokens, 0)
                kind = Kind(f"plain text, {name}", prompts.PLAIN, {})
                results += _gains(ring, model, kind, delay_s, tokens, pairs)[:1]
    return results


def _same_texts_with_draft(quick: bool) -> list[Result]:
    """How many texts are the same with a draft model in the profile that keeps them: greedy, and of seeds."""
    model = open_smollm2("steady")
    asked = _encoded(model, prompts.MIX)[: 1 if quick else SAME_TEXTS // SEEDS]
    seeds = range(2 if quick else SEEDS)
    samplings = [Sampling(temperature=TEMPERATURE if seed else 0.0, seed=seed) for seed in seeds]
    results = []
    for name, draft in (("itself", model), (f"{DRAFT_BLOCKS} blocks of it", _first_blocks())):
        options = {"context_tokens": CONTEXT_TOKENS, "link_delay_s": SHORT_LINK_S, "draft": draft}
        with deployed_ring(model, STAGES, wire="fp16", **options) as ring:  # type: ignore[arg-type]
            same = sum(
                _ask(ring, model, ids, SAME_TOKENS, DRAFT_TOKENS, sampling).ids
                == _ask(ring, model, ids, SAME_TOKENS, 0, sampling).ids
                for ids in asked
                for sampling in samplings
            )
        count = len(asked) * len(samplings)
        results.append(
            Result(f"steady, same texts with {name} as draft model, of {count}", same, "texts", at_least=count)
        )
    return results


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
    for stages, delay_s, rounds, name in MIX_RINGS if part in ("all", "mix") else ():
        with deployed_ring(model, stages, wire="fp16", context_tokens=CONTEXT_TOKENS, link_delay_s=delay_s) as ring:
            _ask(ring, model, _encoded(model, mix[:1])[0], tokens, 0)
            results += _mix(ring, model, name, tokens, 1 if quick else rounds, pairs, mix)
    if part in ("all", "texts"):
        results.append(_same_texts(quick))
    if part in ("all", "draft"):
        results += _draft_gains(quick, tokens, min(pairs, 3))
    if part in ("all", "draft-texts"):
        results += _same_texts_with_draft(quick)
    if part in ("all", "prefix"):
        results += _second_turn(model, pairs, 70 if quick else 400)
    return results


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--part", choices=("all", "kinds", "mix", "texts", "draft", "draft-texts", "prefix"), default="all"
    )


if __name__ == "__main__":
    main("speculation", measure, add_options=_options)
