"""Batching, guesses and reused prefixes change no text: every feature on against off, greedy and seeded."""

from __future__ import annotations

import harness  # noqa: F401  (puts the repository on the path)
from harness import Result, main, note
from prompts import PROMPTS
from rings import deployed_ring
from smollm2 import open_smollm2

from schemas.messages import Sampling
from tests.support.ring import Ring

STAGES = 3
STREAMS = 8
DRAFT_TOKENS = 8
SAMPLINGS = {"greedy": Sampling(), "temperature 0.8": Sampling(temperature=0.8, top_p=0.95, seed=7)}


def _together(ring: Ring, encoded: list[list[int]], tokens: int, sampling: Sampling) -> list[list[int]]:
    texts = []
    for begin in range(0, len(encoded), STREAMS):
        answers = [ring.open(ids, tokens, sampling=sampling) for ids in encoded[begin : begin + STREAMS]]
        texts += [ring.finish(answer).ids for answer in answers]
    return texts


def _continued(ring: Ring, encoded: list[list[int]], tokens: int, sampling: Sampling) -> list[list[int]]:
    """Each prompt goes on from an earlier request that shares all but its last tokens."""
    texts = []
    for ids in encoded:
        earlier = ring.ask(ids[:-4], 2)
        answer = ring.ask(ids, tokens, sampling=sampling, prefix=earlier, prefix_tokens=len(ids) - 4)
        texts.append(answer.ids)
    return texts


def measure(quick: bool) -> list[Result]:
    """Texts of golden prompts with each feature against those of plain runs (`exact`, fp32 on the wire, 3 nodes)."""
    model = open_smollm2("exact")
    stages, prompts, tokens = (2, PROMPTS[:2], 4) if quick else (STAGES, PROMPTS, 64)
    encoded = [list(model.tokenizer().encode_chat([{"role": "user", "content": text}])) for text in prompts]
    results = []
    with deployed_ring(model, stages, wire="fp32", slots=STREAMS) as ring:
        for name, sampling in SAMPLINGS.items():
            plain = [ring.ask(ids, tokens, sampling=sampling).ids for ids in encoded]
            variants = {
                "again": [ring.ask(ids, tokens, sampling=sampling).ids for ids in encoded],
                "batches of 8": _together(ring, encoded, tokens, sampling),
                "guesses": [ring.ask(ids, tokens, sampling=sampling, draft_tokens=DRAFT_TOKENS).ids for ids in encoded],
                "a reused prefix": _continued(ring, encoded, tokens, sampling),
            }
            for feature, texts in variants.items():
                same = sum(text == expected for text, expected in zip(texts, plain, strict=True))
                results.append(
                    Result(f"{name}, {feature}: same texts of {len(plain)}", same, "texts", at_least=len(plain))
                )
                note(f"{results[-1].name}: {same}")
    return results


if __name__ == "__main__":
    main("features", measure)
