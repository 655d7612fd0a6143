"""Guessed tokens and reused prefixes: what they save on slow links, and that they cost nothing elsewhere."""

from __future__ import annotations

import harness
from harness import Result, alternate, main, median_result, note
from rings import deployed_ring
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from tests.support.ring import Ring

STAGES = 3
LINK_DELAY_S = 0.005
DRAFT_TOKENS = 8
TOKENS = 96
TABLE = """| city | country | river |
| --- | --- | --- |
| Paris | France | Seine |
| London | England | Thames |
| Rome | Italy | Tiber |
| Vienna | Austria | Danube |
| Cairo | Egypt | Nile |
"""
PASSAGE = """The lighthouse keeper climbed the narrow stairs every evening. He lit the lamp, wrote the hour into his
book, and watched the ships go by until the morning came.
"""
CODE = """def add(values):
    sum = 0
    for value in values:
        sum = sum + value
    return sum
"""
REPEATING = (
    f"Copy this table without changes:\n\n{TABLE}",
    f"Repeat this text word for word:\n\n{PASSAGE}",
    f"Write this code again, with the name total instead of sum:\n\n{CODE}",
)
PLAIN = (
    "Write a short poem about a lighthouse in winter.",
    "Tell me a story about a robot who learns to paint.",
    "How do I write a polite email to ask for a day off?",
)


def _speed(ring: Ring, prompts: list[list[int]], tokens: int, draft_tokens: int) -> float:
    """Tokens per second over some prompts, one after the other."""
    answers = [ring.ask(ids, tokens, draft_tokens=draft_tokens) for ids in prompts]
    seconds = sum(answer.arrivals_s[-1] - answer.arrivals_s[0] for answer in answers)
    return sum(len(answer.ids) - 1 for answer in answers) / seconds


def _gain(
    model: Model, texts: tuple[str, ...], tokens: int, pairs: int, name: str, **target: float
) -> list[Result]:  # fmt: skip
    encoded = [list(model.tokenizer().encode_chat([{"role": "user", "content": text}])) for text in texts]
    with deployed_ring(model, STAGES, wire="fp16", link_delay_s=LINK_DELAY_S) as ring:
        _speed(ring, encoded[:1], tokens, 0)
        measured = alternate(
            lambda: _speed(ring, encoded, tokens, DRAFT_TOKENS), lambda: _speed(ring, encoded, tokens, 0), pairs
        )
        same = sum(ring.ask(ids, tokens, draft_tokens=DRAFT_TOKENS).ids == ring.ask(ids, tokens).ids for ids in encoded)
    note(f"{name}: {[round(a / b, 2) for a, b in measured]}, same texts {same} of {len(encoded)}")
    return [
        median_result(f"{name}: with guesses over without", [a / b for a, b in measured], "ratio", **target),
        median_result(f"{name}: without guesses", [b for _, b in measured], "tokens/s"),
    ]


def _second_turn(model: Model, pairs: int, history_tokens: int) -> list[Result]:
    """Time to the first token of a second turn over that of the first, whose prompt is the history."""
    tokenizer = model.tokenizer()
    text = " ".join((*REPEATING, *PLAIN))
    ratios = []
    with deployed_ring(model, STAGES, wire="fp16", context_tokens=1024) as ring:
        ring.ask(list(tokenizer.encode(text))[:64], 2)
        for index in range(pairs):
            first_ids = list(tokenizer.encode(f"{index} {text}"))[:history_tokens]
            first = ring.ask(first_ids, 8)
            question = [*first_ids, *first.ids, *tokenizer.encode("And what is the capital of France?")]
            second = ring.ask(question, 2, prefix=first, prefix_tokens=len(first_ids) + len(first.ids) - 1)
            ratios.append(second.ttft_s / first.ttft_s)
    return [median_result(f"TTFT of turn two over turn one, {history_tokens} tokens", ratios, "ratio", at_most=1 / 3)]


def measure(quick: bool) -> list[Result]:
    """Speculation with 5 ms added each way on every node's link, and prefix reuse (`fast`, fp16, three nodes)."""
    model = open_smollm2("fast")
    texts, tokens, pairs = (REPEATING[1:2], 12, 1) if quick else (REPEATING, TOKENS, harness.PAIRS)
    results = _gain(model, texts, tokens, pairs, "text that repeats its source", at_least=1.5)
    if not quick:
        results += _gain(model, PLAIN, tokens, pairs, "text that does not", at_least=0.95)
    return results + _second_turn(model, pairs, 70 if quick else 400)


if __name__ == "__main__":
    main("speculation", measure)
