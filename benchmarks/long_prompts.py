"""Prompts of thousands of tokens through three nodes: the text of one piece, and the memory that was planned."""

from __future__ import annotations

import harness
import numpy as np
from harness import Result, main, note
from rings import LocalChain, deployed_ring
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from orchestrator.planning.cost import predict
from orchestrator.planning.problem import Stage
from orchestrator.replanning.problem_builder import build_problem
from tests.support.ring import Ring, even_cuts

LENGTHS, TOKENS, STAGES = (2048, 4096, 8000), 16, 3
CHUNK_TOKENS = 128
WIRE = "fp32"


def _prompt(model: Model, tokens: int) -> list[int]:
    """This project's licence and decisions, as often as it takes."""
    files = [harness.ROOT / "LICENSE", *sorted((harness.ROOT / "docs" / "decisions").glob("*.md"))]
    ids = list(model.tokenizer().encode("\n".join(file.read_text("utf-8") for file in files)))
    return (ids * (tokens // len(ids) + 1))[:tokens]


def _in_one_piece(model: Model, ids: list[int], caches: dict[str, int]) -> list[int]:
    chain = LocalChain(model, context_tokens=caches["context_tokens"], chunk_tokens=CHUNK_TOKENS)
    for begin in range(0, len(ids), CHUNK_TOKENS):
        logits = chain.last_logits(ids[begin : begin + CHUNK_TOKENS], begin)[-1]
    text = [int(np.argmax(logits))]
    while len(text) < TOKENS:
        text.append(int(chain.last_logits(text[-1:], len(ids) + len(text) - 1)[-1].argmax()))
    return text


def _planned_bytes(model: Model, ring: Ring, cuts: list[int], caches: dict[str, int]) -> dict[str, int]:
    names = sorted(ring.births)
    births = [ring.births[name] for name in names]
    problem = build_problem(model.manifest, births, wire_dtype=WIRE, **caches)  # type: ignore[arg-type]
    stages = tuple(Stage(name, *cuts[index : index + 2]) for index, name in enumerate(names))
    costs = predict(problem, stages)
    return {name: costs.of_node(name).memory_bytes for name in names}


def measure(quick: bool) -> list[Result]:
    """Greedy text and peak memory of each length of prompt."""
    model = open_smollm2("exact")
    results = []
    cuts = even_cuts(model.manifest.num_units, STAGES)
    for length in (300,) if quick else LENGTHS:
        ids = _prompt(model, length)
        caches = {"context_tokens": length + TOKENS, "slots": 1, "chunk_tokens": CHUNK_TOKENS}
        expected = _in_one_piece(model, ids, caches)
        with deployed_ring(model, STAGES, wire=WIRE, **caches) as ring:
            found = ring.ask(ids, TOKENS).ids
            ring.heartbeats.clear()
            ring.wait("heartbeats", lambda: len(ring.heartbeats) == STAGES)
            planned = _planned_bytes(model, ring, cuts, caches)
            shares = [ring.heartbeats[name].peak_rss_bytes / planned[name] for name in planned]
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        note(f"{length} tokens: {same} of {TOKENS} the same, memory {max(shares):.2f} of what was planned")
        results += [
            Result(f"prompt of {length}: tokens like those of one piece", same, "tokens", at_least=TOKENS),
            Result(f"prompt of {length}: largest peak memory over the planned", max(shares), "times", at_most=1.0),
        ]
    return results


if __name__ == "__main__":
    main("long_prompts", measure)
