"""The profile steady: the same bits whatever a text is computed in, and what that costs beside exact and fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import harness
import numpy as np
from harness import Result, main, median_result, note
from prompts import HUNDRED
from rings import CHUNK_TOKENS, CONTEXT_TOKENS, LocalChain, deployed_ring, ring_of_nodes
from smollm2 import open_smollm2

from edge_node.runtime.sampling import choose_token
from edge_node.work import MAX_LOGITS
from orchestrator.model.model import Model
from schemas.messages import Sampling
from tests.support.live_move import prepare, switch
from tests.support.ring import Ring, even_cuts

PROFILES = ("steady", "exact", "fast")
TOKENS = 64
STREAMS = 4
MANY_STREAMS = 8
DRAFT_TOKENS = 8
SEEDED = "temperature 0.8"
SAMPLINGS = {"greedy": Sampling(), SEEDED: Sampling(temperature=0.8, top_p=0.95, seed=7)}
NODES = ("node-a", "node-b", "node-c")
PLAN = {"wire": "fp32", "context_tokens": CONTEXT_TOKENS, "slots": STREAMS, "chunk_tokens": CHUNK_TOKENS}
SPEED_STAGES = 2


@dataclass
class Text:
    """A prompt, what follows it step by step, and the logits (tokens, vocabulary) of those steps."""

    prompt_ids: list[int]
    ids: list[int]
    logits: np.ndarray


def _by_steps(chain: LocalChain, prompt_ids: list[int], tokens: int, sampling: Sampling) -> Text:
    """An answer as a node computes it: chunks of a prompt, then one position at a time."""
    ids: list[int] = []
    rows = []
    fed, position = prompt_ids, 0
    for _ in range(tokens):
        rows.append(chain.logits(fed, position).copy())
        position += len(fed)
        ids.append(choose_token(rows[-1], sampling, position, ()))
        fed = ids[-1:]
    return Text(prompt_ids, ids, np.stack(rows))


def _in_runs(chain: LocalChain, text: Text, lengths: Sequence[int]) -> int:
    """Logits of the answer that are others where the same text comes in runs of these lengths."""
    fed = [*text.prompt_ids, *text.ids[:-1]]
    begin, differing, first = 0, 0, len(text.prompt_ids) - 1
    for length in lengths:
        wanted = min(length, MAX_LOGITS)
        rows = chain.last_logits(fed[begin : begin + length], begin, wanted)
        begin += length
        for row, position in zip(rows, range(begin - wanted, begin), strict=True):
            if position >= first:
                expected = text.logits[position - first]
                differing += int((row.view(np.uint32) != expected.view(np.uint32)).sum())
    return differing


def _lengths(total: int, longest: int, generator: np.random.Generator) -> list[int]:
    """Lengths of runs, drawn until they make ``total``."""
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(min(int(generator.integers(1, longest + 1)), total - sum(lengths)))
    return lengths


def _bits(model: Model, encoded: list[list[int]], tokens: int, name: str, sampling: Sampling) -> tuple[
    list[Result], list[list[int]]
]:  # fmt: skip
    """Logits of one run and of chunks against those of single steps, in one process; and the texts."""
    chain = LocalChain(model, chunk_tokens=CONTEXT_TOKENS)
    generator = np.random.default_rng(3)
    differing = {"one run": 0, "runs of 1 to 32": 0, "runs of 1 to 3": 0}
    texts = []
    for prompt_ids in encoded:
        text = _by_steps(chain, prompt_ids, tokens, sampling)
        total = len(prompt_ids) + tokens - 1
        differing["one run"] += _in_runs(chain, text, [total])
        for longest in (32, 3):
            differing[f"runs of 1 to {longest}"] += _in_runs(chain, text, _lengths(total, longest, generator))
        texts.append(text.ids)
    note(f"{name}: {differing}")
    results = [
        Result(f"{name}, {what} against single steps: logits that differ", count, "values", at_most=0)
        for what, count in differing.items()
    ]
    return results, texts


def _together(ring: Ring, encoded: list[list[int]], tokens: int, streams: int, **options: object) -> list[list[int]]:
    texts = []
    for begin in range(0, len(encoded), streams):
        answers = [ring.open(ids, tokens, **options) for ids in encoded[begin : begin + streams]]  # type: ignore[arg-type]
        texts += [ring.finish(answer).ids for answer in answers]
    return texts


def _moved(
    ring: Ring, homes: dict, encoded: list[list[int]], tokens: int, units: int, sampling: Sampling
) -> list[list[int]]:
    """Texts of answers in whose middle layers go to another node, and their KV rows with them."""
    layouts = [(NODES[:2], even_cuts(units, 2)), (NODES, even_cuts(units, 3))]
    ring.deploy(homes, layouts[0][1], order=layouts[0][0], **PLAN)
    texts: list[list[int]] = []
    for number, begin in enumerate(range(0, len(encoded), STREAMS), 1):
        names, cuts = layouts[number % 2]
        plan = prepare(ring, homes, names, cuts, **PLAN)
        answers = [ring.open(ids, tokens, sampling=sampling) for ids in encoded[begin : begin + STREAMS]]
        ring.wait("tokens", lambda: all(len(answer.ids) >= 3 for answer in answers))  # noqa: B023
        switch(ring, plan)
        if any(answer.finish for answer in answers):
            raise RuntimeError("an answer was over before its layers moved")
        texts += [ring.finish(answer).ids for answer in answers]
    return texts


def _in_rings(model: Model, encoded: list[list[int]], tokens: int, expected: dict[str, list[list[int]]], stages: tuple[
    int, ...
]) -> list[Result]:  # fmt: skip
    """Texts of rings against those of one process."""
    units, results = model.manifest.num_units, []
    with ring_of_nodes(model, NODES) as (ring, homes):
        for name, texts_expected in expected.items():
            sampling = SAMPLINGS[name]
            variants: dict[str, Callable[[], list[list[int]]]] = {}
            for count in stages:
                cuts = even_cuts(units, count)

                def deployed(streams: int, draft_tokens: int, count: int = count, cuts: list[int] = cuts,
                             sampling: Sampling = sampling) -> list[list[int]]:  # fmt: skip
                    ring.deploy(homes, cuts, order=NODES[:count], **PLAN)
                    options = {"sampling": sampling, "draft_tokens": draft_tokens}
                    return _together(ring, encoded, tokens, streams, **options)

                variants[f"{count} nodes, {STREAMS} at once"] = lambda deployed=deployed: deployed(STREAMS, 0)
                if count > 1:
                    variants[f"{count} nodes, guesses"] = lambda deployed=deployed: deployed(2, DRAFT_TOKENS)
            variants["moved in mid-answer"] = lambda sampling=sampling: _moved(
                ring, homes, encoded, tokens, units, sampling
            )
            for what, run in variants.items():
                texts = run()
                same = sum(text == other for text, other in zip(texts, texts_expected, strict=True))
                results.append(
                    Result(f"{name}, {what}: same texts of {len(texts)}", same, "texts", at_least=len(texts))
                )
                note(f"{results[-1].name}: {same}")
    return results


def _one_stream(prompt_ids: list[int], tokens: int, pairs: int) -> list[Result]:
    """Time per token of an unsplit model in this process, profile against profile."""
    chains = {profile: LocalChain(open_smollm2(profile)) for profile in PROFILES}
    for chain in chains.values():
        chain.greedy(prompt_ids, 4)
    rounds = [{profile: 1e3 / chain.greedy(prompt_ids, tokens)[1] for profile, chain in chains.items()}
              for _ in range(pairs)]  # fmt: skip
    note(f"one stream, ms per token: {[{key: round(value, 1) for key, value in times.items()} for times in rounds]}")
    return [
        *(median_result(f"one stream, {profile}", [times[profile] for times in rounds], "ms per token")
          for profile in PROFILES),
        median_result("one stream: steady over exact", [t["steady"] / t["exact"] for t in rounds], "ratio",
                      at_most=0.75),
        median_result("one stream: steady over fast", [t["steady"] / t["fast"] for t in rounds], "ratio"),
    ]  # fmt: skip


def _in_two_nodes(prompt_ids: list[int], tokens: int, pairs: int) -> list[Result]:
    """Tokens per second of rings of two nodes: one stream, then many."""
    with ExitStack() as stack:
        rings = {
            profile: stack.enter_context(
                deployed_ring(open_smollm2(profile), SPEED_STAGES, wire="fp16", slots=MANY_STREAMS)
            )
            for profile in PROFILES
        }
        results = []
        for streams in (1, MANY_STREAMS):
            rounds = [
                {profile: _rate(ring, prompt_ids, tokens, streams) for profile, ring in rings.items()}
                for _ in range(pairs)
            ]
            for profile in PROFILES:
                values = [rates[profile] for rates in rounds]
                results.append(median_result(f"{SPEED_STAGES} nodes, {streams} streams, {profile}", values, "tokens/s"))
            for other in PROFILES[1:]:
                ratios = [rates["steady"] / rates[other] for rates in rounds]
                name = f"{SPEED_STAGES} nodes, {streams} streams: steady over {other}"
                results.append(median_result(name, ratios, "ratio of tokens/s"))
                note(f"{name}: {[round(ratio, 2) for ratio in ratios]}")
    return results


def _rate(ring: Ring, prompt_ids: list[int], tokens: int, streams: int) -> float:
    """Tokens per second of all streams together, from the last one's first token to the first one's last."""
    answers = [ring.open(prompt_ids, tokens) for _ in range(streams)]
    for answer in answers:
        ring.finish(answer)
    begin_s = max(answer.arrivals_s[0] for answer in answers)
    end_s = min(answer.arrivals_s[-1] for answer in answers)
    return sum(begin_s < at_s <= end_s for answer in answers for at_s in answer.arrivals_s) / (end_s - begin_s)


def measure(quick: bool) -> list[Result]:
    """Bits and texts of the profile steady, and its speed beside exact and fast."""
    prompts, tokens, stages, pairs, samplings = (
        (HUNDRED[:2], 12, (2,), 1, {SEEDED: SAMPLINGS[SEEDED]})
        if quick
        else (HUNDRED, TOKENS, (1, 2, 3), harness.PAIRS, SAMPLINGS)
    )
    model = open_smollm2("steady")
    tokenizer = model.tokenizer()
    encoded = [list(tokenizer.encode_chat([{"role": "user", "content": prompt}])) for prompt in prompts]
    started = time.monotonic()
    results = _one_stream(encoded[0], tokens, pairs)
    if not quick:
        results += _in_two_nodes(encoded[0], TOKENS, pairs)
    expected = {}
    for name, sampling in samplings.items():
        found, expected[name] = _bits(model, encoded, tokens, name, sampling)
        results += found
        note(f"after {time.monotonic() - started:.0f} s")
    return results + _in_rings(model, encoded, tokens, expected, stages)


if __name__ == "__main__":
    main("steady", measure)
