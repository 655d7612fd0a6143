"""Where a token's time goes between two runs of ONNX Runtime: the budget of one hop, part by part.

A part is measured twice: warm, in a loop of its own, and as it is in a node, after a run of ONNX Runtime and a pause,
when little of it is left in the caches. The second is up to ten times the first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import harness
import numpy as np
from harness import Result, main, median_result
from rings import deployed_ring, open_segment
from smollm2 import QUESTION, open_smollm2

from edge_node.runtime.sampling import choose_token
from edge_node.wire.activations import encode_activation
from orchestrator.model.model import Model
from schemas.codec import SAMPLE, Dtype, Kind
from schemas.frame_template import FrameTemplate
from schemas.messages import Epoch, Sampling
from tests.support.ring import even_cuts

STAGES = 4
TOKENS = 128
MOST_MS = 0.35
WARM_REPEATS = 2000
COLD_REPEATS = 60
PAUSE_S = 0.003


def _microseconds(action: Callable[[], object], repeats: int, before: Callable[[], object] | None = None) -> float:
    times_s = []
    for _ in range(repeats):
        if before:
            before()
        started = time.perf_counter()
        action()
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1e6


def _parts(model: Model, warm_repeats: int, cold_repeats: int) -> list[Result]:
    """Medians of the parts that run in a node's own thread."""
    width, vocab_size = model.manifest.boundaries[0].width, model.manifest.vocab_size
    segment = open_segment(model, even_cuts(model.manifest.num_units, STAGES), 1, wire="fp16")

    def run_and_pause() -> None:
        segment.run(0, (7,), 1)
        time.sleep(PAUSE_S)

    generator = np.random.default_rng(0)
    hidden = 10 * generator.standard_normal((1, width), dtype=np.float32)
    logits = generator.standard_normal(vocab_size, dtype=np.float32)
    payload = encode_activation(hidden, Dtype.FP16)
    epoch = Epoch(generation=1, counter=1)
    stencil = FrameTemplate(Kind.ACTIVATION, Dtype.FP16, SAMPLE, 1, 1, epoch, 0, width, len(payload))
    stencil.at(7)
    frame = stencil.pack(payload)
    parts: dict[str, Callable[[], object]] = {
        "compare a frame": lambda: stencil.read(frame),
        "take in halves": lambda: segment.take_in(payload, Dtype.FP16),
        "give out halves": segment.give_out,
        "fill in a frame": lambda: stencil.pack(payload),
        f"greedy token of {vocab_size}": lambda: choose_token(logits, Sampling(), 8, ()),
    }
    results = []
    for name, action in parts.items():
        results.append(Result(f"part, warm: {name}", _microseconds(action, warm_repeats), "us"))
        results.append(Result(f"part, in a node: {name}", _microseconds(action, cold_repeats, run_and_pause), "us"))
    return results


def measure(quick: bool) -> list[Result]:
    """Time per hop outside ONNX Runtime on loopback (four nodes, one stream, `fast`, fp16), and its parts."""
    model = open_smollm2("fast")
    prompt_ids = model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}])
    stages, answers, tokens = (2, 1, 8) if quick else (STAGES, 2 * harness.PAIRS, TOKENS)
    outside_ms, compute_ms = [], []
    with deployed_ring(model, stages, wire="fp16") as ring:
        ring.ask(prompt_ids, 8)
        for _ in range(answers):
            answer = ring.ask(prompt_ids, tokens)
            in_ort_s = sum(timing.decode_s / timing.decode_steps for timing in answer.timings.values())
            compute_ms.append(in_ort_s * 1e3)
            outside_ms.append((1 / answer.tokens_per_s - in_ort_s) * 1e3 / stages)
        echo_us = [birth.hop_s * 1e6 for birth in ring.births.values()]
    return [
        median_result("time per hop outside ONNX Runtime", outside_ms, "ms", at_most=MOST_MS),
        median_result(f"time per token inside ONNX Runtime, {stages} nodes", compute_ms, "ms"),
        median_result("part, warm: a message to the broker and back", echo_us, "us"),
        *_parts(model, *((10, 2) if quick else (WARM_REPEATS, COLD_REPEATS))),
    ]


if __name__ == "__main__":
    main("hop", measure)
