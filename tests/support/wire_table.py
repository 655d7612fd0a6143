"""Prints what rounding hidden states between three nodes does, to how many bits, in ``fast`` and ``exact``.

``python -m tests.support.wire_table [HOME NAME]``: a model of the store in HOME, by default the demo's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.commands.demo_model import demo_model
from orchestrator.commands.settings import default_cache
from orchestrator.model.graph import read_model, resolve
from orchestrator.model.model import GRAPH_FILE
from orchestrator.model.passages import encode_passages
from orchestrator.model.quality import UNROUNDED, even_cuts, predict
from orchestrator.model.split import plan_split
from orchestrator.model.store import ModelStore
from orchestrator.model.subject import Subject
from orchestrator.model.wire import as_received


def to_bits(hidden: NDArray[Any], bits: int) -> NDArray[Any]:
    """Rounded to so many bits of mantissa; fp16 has 11, float32 24."""
    mantissas, exponents = np.frexp(hidden)
    rounded: NDArray[Any] = np.ldexp(np.rint(mantissas * 2.0**bits) / 2.0**bits, exponents).astype(np.float32)
    return rounded


def scaled_halves(hidden: NDArray[Any]) -> NDArray[Any]:
    """float16 of each position's values times the power of two that makes the largest just fit."""
    exponents = np.frexp(np.abs(hidden).max(-1, keepdims=True))[1] - 15
    halves: NDArray[Any] = np.ldexp(hidden, -exponents).astype(np.float16)
    received: NDArray[Any] = np.ldexp(halves.astype(np.float32), exponents)
    return received


def next_values(hidden: NDArray[Any]) -> NDArray[Any]:
    """The next larger float32 of each: as little as can be changed."""
    following: NDArray[Any] = np.nextafter(hidden, np.float32(np.inf))
    return following


ROUNDINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "int8": functools.partial(as_received, wire="int8"),
    "8 bits": functools.partial(to_bits, bits=8),
    "fp16": functools.partial(as_received, wire="fp16"),
    "fp16 scaled": scaled_halves,
    "14 bits": functools.partial(to_bits, bits=14),
    "21 bits": functools.partial(to_bits, bits=21),
    "next float32": next_values,
}


def main() -> None:
    """Print a line for each way of rounding."""
    store, name = (ModelStore(Path(sys.argv[1])), sys.argv[2]) if sys.argv[1:] else demo_model(default_cache())
    model = store.open(name)
    manifest = model.manifest
    passages = encode_passages(model.tokenizer(), manifest.vocab_size, manifest.max_context)
    plan = plan_split(resolve(read_model(model.folder / GRAPH_FILE), model.blobs_folder))
    subject = Subject(plan, model.blobs_folder, manifest.layers)
    for profile in ("fast", "exact"):
        made = predict(subject, profile, passages, ROUNDINGS, even_cuts(plan.num_units))
        whole = made.pop(UNROUNDED)
        print(f"{name} {profile}, perplexity {whole.perplexity:.3f}: agreement, perplexity, mean change in nats")
        for rounding, found in made.items():
            change = np.abs(found.losses - whole.losses).mean()
            print(f"  {rounding:<12} {found.agreement(whole.best):.4f} {found.perplexity:.3f} {change:.4f}")


if __name__ == "__main__":
    main()
