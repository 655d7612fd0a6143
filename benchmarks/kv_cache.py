"""Keys and values in fp16 and int8 against the model as it was converted: memory, bytes of a live move, text, speed.

All kinds run in turn in this process, one thread, in one piece; of moves two node processes each. The text is the
licence's, which no scale was found with.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from harness import Result, alternate, main, median_result, note
from judged import judge, text_ids
from rings import CHUNK_TOKENS, LocalChain, ring_of_nodes
from smollm2 import open_smollm2

from orchestrator.model.kv_calibration import measure_kv, read_kv
from orchestrator.model.kv_rounding import IN_HALVES
from orchestrator.model.model import Model
from schemas.limits import MB
from tests.support.live_move import move

TEXT_TOKENS = 2000
QUICK_TOKENS = 40
FILLED_TOKENS, QUICK_FILLED_TOKENS = 2048, 256
BEHIND_TOKENS = (128, 1024)
ROUNDS, DECODES = 9, 9
NAMES = ("alfa", "bravo")
MOVED_TOKENS = 300
ROUNDED = ("fp16", "int8")
MOST_SHARE = 1 / 2
"""Of the bytes in float32."""
WITHIN = 1.1
MOST_PERPLEXITY_PERCENT = 0.5
Kinds = dict[str, Model]
"""By type of keys and values, float32 first."""


def kinds_of(profile: str) -> Kinds:
    """SmolLM2 with each type of keys and values."""
    model = open_smollm2(profile)
    report = read_kv(model.folder) or measure_kv(model)
    note(f"{profile}: {report.summary()}")
    return {"fp32": model, "fp16": model.with_rounding(IN_HALVES), "int8": model.with_rounding(report.rounding)}


def measure(quick: bool) -> list[Result]:
    """Memory, bytes of a move, perplexity, agreement and speed with rounded keys and values, over those without."""
    results = []
    for profile in ("fast",) if quick else ("exact", "fast"):
        results += _text(profile, kinds_of(profile), QUICK_TOKENS if quick else TEXT_TOKENS)
    fast = kinds_of("fast")
    results += _memory(fast, QUICK_FILLED_TOKENS if quick else FILLED_TOKENS)
    results += _moves(fast, QUICK_TOKENS if quick else MOVED_TOKENS)
    return results + _speed(fast, 1 if quick else ROUNDS, BEHIND_TOKENS[:1] if quick else BEHIND_TOKENS)


def _text(profile: str, kinds: Kinds, tokens: int) -> list[Result]:
    ids = text_ids(kinds["fp32"], tokens)
    plain = judge(LocalChain(kinds["fp32"]), ids)
    results = [Result(f"{profile} fp32: perplexity of {len(ids)} tokens", plain.perplexity, "perplexity")]
    for kind in ROUNDED:
        other = judge(LocalChain(kinds[kind]), ids)
        change = 100 * (other.perplexity / plain.perplexity - 1)
        error = 100 * (other.losses - plain.losses).std() / math.sqrt(len(plain.losses))
        same = other.agreement(plain.best)
        note(f"{profile} {kind}: perplexity {change:+.3f} % +- {error:.3f}, agreement {same:.4f}")
        target = {"at_most": MOST_PERPLEXITY_PERCENT} if profile == "exact" else {}
        results += [
            Result(f"{profile} {kind}: perplexity against fp32", change, "%", **target),
            Result(f"{profile} {kind}: the same most likely token", same, "of 1"),
        ]
    return results


def _memory(kinds: Kinds, tokens: int) -> list[Result]:
    """What becomes resident again with a text whose rows were given back."""
    grown = {}
    for kind, model in kinds.items():
        chain = LocalChain(model, context_tokens=tokens)
        ids = [(7 + 37 * index) % model.manifest.vocab_size for index in range(CHUNK_TOKENS)]
        _fill(chain, ids, tokens)
        chain.forget()
        before = _resident_bytes()
        _fill(chain, ids, tokens)
        grown[kind] = _resident_bytes() - before
        del chain
    told = {kind: model.manifest.kv_bytes_per_token for kind, model in kinds.items()}
    return [
        Result(f"fp32: resident memory of {tokens} positions", grown["fp32"] / MB, "MB"),
        *_shares("resident memory", grown, told),
    ]


def _fill(chain: LocalChain, ids: Sequence[int], tokens: int) -> None:
    for position in range(0, tokens, CHUNK_TOKENS):
        chain.last_logits(ids, position)


def _shares(what: str, found: dict[str, float], told: dict[str, int]) -> list[Result]:
    """What was found over float32's: at most a half, and what the manifests say."""
    results = []
    for kind in ROUNDED:
        most = min(MOST_SHARE, told[kind] / told["fp32"]) * WITHIN
        results.append(Result(f"{kind}: {what} over fp32", found[kind] / found["fp32"], "times", at_most=most))
    return results


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


def _moves(kinds: Kinds, tokens: int) -> list[Result]:
    """KV rows that a node sends when half of its layers go to another in mid-answer, by position."""
    sent, told = {}, {}
    for kind, model in kinds.items():
        units = model.manifest.num_units
        moved = model.manifest.units[units // 2 : units - 2]
        told[kind] = sum(unit.kv_bytes_per_token for unit in moved)
        plan = {"context_tokens": 512, "slots": 1, "chunk_tokens": CHUNK_TOKENS}
        with ring_of_nodes(model, NAMES) as (ring, homes):
            ring.deploy(homes, (0, units - 2, units), **plan)
            answer = ring.open([(7 + 37 * index) % model.manifest.vocab_size for index in range(tokens)], 150)
            ring.wait("tokens", lambda: len(answer.ids) > 4)  # noqa: B023
            move(ring, homes, NAMES, (0, units // 2, units), **plan)
            positions = ring.held[0].requests[0].valid_tokens
            ring.finish(answer)
            sent[kind] = sum(copied.sent_bytes for copied in ring.copied if copied.final) / positions
    per_position = Result("fp32: bytes of a live move per position", sent["fp32"], "bytes")
    return [per_position, *_shares("bytes of a move", sent, told)]


def _speed(kinds: Kinds, rounds: int, behind: Sequence[int]) -> list[Result]:
    chains = {kind: LocalChain(model, context_tokens=max(behind) + CHUNK_TOKENS) for kind, model in kinds.items()}
    ids = [(7 + 37 * index) % kinds["fp32"].manifest.vocab_size for index in range(max(behind))]
    results = []
    for chain, position in itertools.product(chains.values(), range(0, max(behind), CHUNK_TOKENS)):
        chain.last_logits(ids[position : position + CHUNK_TOKENS], position)
    for kind, tokens in itertools.product(ROUNDED, behind):
        for name, given in (("a token", ids[:1]), (f"{CHUNK_TOKENS} tokens of a prompt", ids[:CHUNK_TOKENS])):
            times = alternate(
                functools.partial(_seconds, chains["fp32"], given, tokens),
                functools.partial(_seconds, chains[kind], given, tokens),
                rounds,
            )
            ratios = [plain / other for plain, other in times]
            results.append(median_result(f"{kind}: speed of {name} behind {tokens} over fp32", ratios, "times"))
    return results


def _seconds(chain: LocalChain, ids: Sequence[int], position: int) -> float:
    """The median of some runs."""
    found = []
    for _ in range(DECODES):
        begun_s = time.perf_counter()
        chain.last_logits(ids, position)
        found.append(time.perf_counter() - begun_s)
    return statistics.median(found)


if __name__ == "__main__":
    main("kv_cache", measure)
