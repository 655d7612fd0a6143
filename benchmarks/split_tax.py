"""Decode speed of 1, 2 and 4 node processes over Mosquitto as a ratio to one unsplit ONNX Runtime session.

Beside each ring of nodes stands one of processes joined by pipes: what it lacks is not the bus's.
"""

from __future__ import annotations

import harness
from harness import Result, alternate, main, median_result, note
from piped_ring import PipedRing
from rings import LocalChain, deployed_ring
from smollm2 import QUESTION, open_smollm2

TARGETS = {1: None, 2: 0.92, 4: 0.88}


def measure(quick: bool) -> list[Result]:
    """Decode tokens/s of 1, 2 and 4 nodes over an unsplit session (one thread each, `fast`, fp16, one stream)."""
    model = open_smollm2("fast")
    prompt_ids = model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}])
    tokens, pairs = (8, 1) if quick else (128, harness.PAIRS)
    unsplit = LocalChain(model)
    unsplit.greedy(prompt_ids, 8)
    results = []
    for stages, target in ((2, TARGETS[2]),) if quick else TARGETS.items():
        with deployed_ring(model, stages, wire="fp16") as ring:
            ring.ask(prompt_ids, 8)
            measured = alternate(
                lambda ring=ring: ring.ask(prompt_ids, tokens).tokens_per_s,
                lambda: unsplit.greedy(prompt_ids, tokens)[1],
                pairs,
            )
        ratios = [split / whole for split, whole in measured]
        targets = {} if target is None else {"at_least": target}
        results.append(median_result(f"decode, {stages} nodes over unsplit", ratios, "ratio", **targets))
        results.append(median_result(f"decode, {stages} nodes", [split for split, _ in measured], "tokens/s"))
        results.append(median_result(f"unsplit beside {stages} nodes", [whole for _, whole in measured], "tokens/s"))
        note(f"{stages} nodes: {results[-3].value:.3f}")
        with PipedRing("fast", stages) as piped:
            piped.greedy(prompt_ids, 8)
            measured = alternate(
                lambda piped=piped: piped.greedy(prompt_ids, tokens)[1],
                lambda: unsplit.greedy(prompt_ids, tokens)[1],
                pairs,
            )
        ratios = [split / whole for split, whole in measured]
        results.append(median_result(f"decode, {stages} processes joined by pipes over unsplit", ratios, "ratio"))
        note(f"{stages} processes joined by pipes: {results[-1].value:.3f}")
    return results


if __name__ == "__main__":
    main("split_tax", measure)
