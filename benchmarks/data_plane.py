"""Many streams, long prompts: how well the pipeline is filled, over real nodes and a real Mosquitto."""

from __future__ import annotations

import statistics
from dataclasses import replace

import harness
from harness import Result, main, median_result, note
from measured import PROFILED_S, deploy, even_stages, observed, problem_of, profiles_of, run_s, solved
from prompts import PROMPTS
from rings import CHUNK_TOKENS, CONTEXT_TOKENS, Homes, deployed_ring, ring_of_nodes
from smollm2 import open_smollm2

from orchestrator.model.model import Model
from orchestrator.planning.problem import Constraints, Objective, Pin, Stage
from orchestrator.planning.profile import Profile
from tests.support.ring import Answer, Ring

STREAMS = 8
STREAM_TOKENS = 64
PREFILL_TOKENS = 512
STREAM_TARGETS = {"gain": 3.5, "slowdown": 3.0}


def _tpot_s(answer: Answer) -> float:
    """Time per output token of an answer, its first token not counted."""
    return (answer.arrivals_s[-1] - answer.arrivals_s[0]) / (len(answer.arrivals_s) - 1)


def _aggregate(answers: list[Answer]) -> float:
    """Tokens per second of all answers together, from the last one's first token to the first one's last."""
    begin = max(answer.arrivals_s[0] for answer in answers)
    end = min(answer.arrivals_s[-1] for answer in answers)
    arrived = sum(begin < arrival_s <= end for answer in answers for arrival_s in answer.arrivals_s)
    return arrived / (end - begin)


def _busiest(answers: list[Answer]) -> float:
    """Share of the time, prompts included, that the busiest stage computes."""
    elapsed_s = max(answer.arrivals_s[-1] for answer in answers) - min(answer.opened_s for answer in answers)
    stages = answers[0].timings
    return max(sum(answer.timings[stage].busy_s for answer in answers) for stage in stages) / elapsed_s


def _ceiling(alone: Answer, together: list[Answer]) -> float:
    """Streams over one if nothing but runs took time: those of one row, against the longest of a whole batch."""
    rows = len(together) / len(alone.timings)
    return sum(run_s([alone], stage) for stage in alone.timings) / max(
        run_s(together, stage) / rows for stage in alone.timings
    )


def _planned(ring: Ring, model: Model, profiles: dict[str, Profile]) -> tuple[Stage, ...]:
    """The planner's stages for throughput. The ends are pinned to different nodes: two stages, as in the even split."""
    problem = problem_of(ring, model, profiles, context_tokens=CONTEXT_TOKENS, slots=STREAMS, chunk_tokens=CHUNK_TOKENS)
    units, (first, last) = model.manifest.num_units, sorted(profiles)
    ends = Constraints(pins=(Pin(first, 0, 1), Pin(last, units - 1, units)))
    return solved(replace(problem, objective=Objective.THROUGHPUT, streams=STREAMS, constraints=ends)).stages


def _streams(model: Model, pairs: int, tokens: int, profiled_s: float) -> list[Result]:
    """Two nodes: eight streams over one, alternating; on the even split and on the planned one."""
    names = ["node-0", "node-1"]
    units = model.manifest.num_units
    with ring_of_nodes(model, names) as (ring, homes):
        profiles = profiles_of(ring, model, homes, time_limit_s=profiled_s)
        even = even_stages(names, units)
        _deploy(ring, homes, "even split", even)
        results, answers = _measured_streams(ring, model, "even split", pairs, tokens)
        refined = observed(profiles, even, units, answers, rows=STREAMS // len(names))
        planned = _planned(ring, model, refined)
        _deploy(ring, homes, "planned split", planned)
        return results + _measured_streams(ring, model, "planned split", pairs, tokens, **STREAM_TARGETS)[0]


def _deploy(ring: Ring, homes: Homes, split: str, stages: tuple[Stage, ...]) -> None:
    note(f"{split}: " + ", ".join(f"{stage.node} [{stage.start}, {stage.stop})" for stage in stages))
    deploy(ring, homes, stages, context_tokens=CONTEXT_TOKENS, slots=STREAMS, chunk_tokens=CHUNK_TOKENS)


def _measured_streams(
    ring: Ring, model: Model, split: str, pairs: int, tokens: int, *, gain: float | None = None,
    slowdown: float | None = None,
) -> tuple[list[Result], list[Answer]]:  # fmt: skip
    """Figures, and the answers that were not alone."""
    encoded = [model.tokenizer().encode_chat([{"role": "user", "content": text}]) for text in PROMPTS[:STREAMS]]
    gains, ceilings, slowdowns, speeds, busy, answers = [], [], [], [], [], []
    ring.ask(encoded[0], 8)
    for _ in range(pairs):
        alone = ring.ask(encoded[0], tokens)
        together = [ring.open(ids, tokens) for ids in encoded]
        for answer in together:
            ring.finish(answer)
        answers += together
        speeds.append(_aggregate(together))
        gains.append(speeds[-1] / alone.tokens_per_s)
        ceilings.append(_ceiling(alone, together))
        busy.append(100 * _busiest(together))
        slowdowns.append(statistics.quantiles(map(_tpot_s, together), n=20)[-1] / _tpot_s(alone))
    return [
        median_result(f"{split}, 8 streams over one: aggregate decode", gains, "ratio", at_least=gain),
        median_result(f"{split}, 8 streams over one: if only runs took time", ceilings, "ratio"),
        median_result(f"{split}, 8 streams: p95 TPOT over a lone stream's", slowdowns, "ratio", at_most=slowdown),
        median_result(f"{split}, 8 streams: aggregate decode", speeds, "tokens/s"),
        median_result(f"{split}, 8 streams: the busier node computes", busy, "%"),
    ], answers


def _prefill_s(ring: Ring, prompt_ids: list[int]) -> float:
    return ring.ask(prompt_ids, 1).ttft_s


def _prefill(model: Model, pairs: int, prompt_tokens: int) -> list[Result]:
    """Time to the first token of a long prompt on one node over that on two, alternating."""
    text = " ".join(PROMPTS) * 4
    prompt_ids = list(model.tokenizer().encode(text))[:prompt_tokens]
    assert len(prompt_ids) == prompt_tokens
    with (
        deployed_ring(model, 1, wire="fp16", context_tokens=1024) as one,
        deployed_ring(model, 2, wire="fp16", context_tokens=1024) as two,
    ):
        for ring in (one, two):
            _prefill_s(ring, prompt_ids)
        measured = harness.alternate(lambda: _prefill_s(one, prompt_ids), lambda: _prefill_s(two, prompt_ids), pairs)
    return [
        median_result(
            f"prefill of {prompt_tokens}, 2 nodes over 1", [a / b for a, b in measured], "ratio", at_least=1.6
        ),
        median_result(f"prefill of {prompt_tokens}, 2 nodes", [prompt_tokens / b for _, b in measured], "tokens/s"),
    ]


def measure(quick: bool) -> list[Result]:
    """Batching, pipelining and chunked prefill over node processes of one thread (`fast`, fp16)."""
    model = open_smollm2("fast")
    pairs = 1 if quick else harness.PAIRS
    if quick:
        return _streams(model, pairs, 4, 0.1)
    results = _streams(model, pairs, STREAM_TOKENS, PROFILED_S)
    note(f"streams: {results[0].value:.2f}")
    return results + _prefill(model, pairs, PREFILL_TOKENS)


if __name__ == "__main__":
    main("data_plane", measure)
