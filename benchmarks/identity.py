"""Does splitting change anything? Logits to the bit, and greedy text of 20 prompts, against the unsplit session."""

from __future__ import annotations

import harness  # noqa: F401  (puts the repository on the path)
import numpy as np
from harness import Result, main, note
from prompts import PROMPTS
from rings import LocalChain, deployed_ring
from smollm2 import open_smollm2

from orchestrator.model.model import Model

STAGES = (1, 2, 3, 5)
FP16_STAGES = 3
PROFILES = ("exact", "fast")


def _logits_differ(model: Model, stages: int, prompt_ids: list[int], steps: int) -> int:
    """Logits of a prefill and ``steps`` decode steps that are not the unsplit session's, bit by bit."""
    whole, split = LocalChain(model), LocalChain(model, stages)
    ids, position, differing = prompt_ids, 0, 0
    for _ in range(steps + 1):
        expected, found = whole.logits(ids, position).copy(), split.logits(ids, position)
        differing += int((expected.view(np.uint32) != found.view(np.uint32)).sum())
        position += len(ids)
        ids = [int(expected.argmax())]
    return differing


def measure(quick: bool) -> list[Result]:
    """Logits and greedy texts of split models against the unsplit session."""
    prompts, tokens, counts = (PROMPTS[:1], 6, (2,)) if quick else (PROMPTS, 64, STAGES)
    results = []
    for profile in PROFILES[:1] if quick else PROFILES:
        model = open_smollm2(profile)
        tokenizer = model.tokenizer()
        encoded = [tokenizer.encode_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
        whole = LocalChain(model)
        expected = [whole.greedy(ids, tokens)[0] for ids in encoded]
        for stages in counts:
            differing = _logits_differ(model, stages, encoded[0], 4 if quick else 32)
            name = f"{profile} fp32, {stages} nodes: logits that differ"
            results.append(Result(name, differing, "values", at_most=0))
            results.append(_same_texts(model, stages, "fp32", encoded, expected, at_least=len(prompts)))
        at_least = {"at_least": len(prompts) - 1} if profile == "exact" else {}
        results.append(_same_texts(model, FP16_STAGES, "fp16", encoded, expected, **at_least))
    return results


def _same_texts(
    model: Model, stages: int, wire: str, encoded: list[list[int]], expected: list[list[int]], **target: float
) -> Result:
    with deployed_ring(model, stages, wire=wire) as ring:
        same = sum(ring.ask(ids, len(text)).ids == text for ids, text in zip(encoded, expected, strict=True))
    name = f"{model.manifest.profile} {wire}, {stages} nodes: same texts of {len(expected)}"
    note(f"{name}: {same}")
    return Result(name, same, "texts", **target)


if __name__ == "__main__":
    main("identity", measure)
