"""A trial of an execution provider, in a process of its own: a driver may hang, or end the process that calls it.

``python -m edge_node.runtime.provider_trial`` is given a `Trial`, pickled, and prints a `Found` in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_node.errors import NodeError, WrongAnswers
from edge_node.runtime.known_answers import SelfCheck
from edge_node.runtime.segment import Segment
from edge_node.runtime.session import CPU
from edge_node.stage_spec import SegmentSpec

TIME_LIMIT_S = 120.0
COMMAND = (sys.executable, "-m", "edge_node.runtime.provider_trial")
_STEPS = 9
_POSITION = 8
"""Where the steps that are timed come in a text."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried: a segment with its known answer, on one provider."""

    provider: str
    spec: SegmentSpec
    graph: Path
    answer: Path
    threads: int


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it: seconds of a decode step, or why the provider is of no use."""

    cpu_s: float = 0.0
    provider_s: float = 0.0
    failure: str = ""


def run_trial(trial: Trial, command: Sequence[str] = COMMAND, time_limit_s: float = TIME_LIMIT_S) -> Found:
    """Try a provider in a process of its own, which takes as much memory as the segment does."""
    try:
        done = subprocess.run(
            command, input=pickle.dumps(trial), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=time_limit_s, check=False,
        )  # fmt: skip
        if done.returncode:
            return Found(failure=f"the process that tried it ended with {done.returncode}")
        return Found(**json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Found(failure=f"it took more than {time_limit_s:g} s")
    except (OSError, ValueError, TypeError, IndexError) as error:
        return Found(failure=f"it could not be tried: {error}")


def try_provider(trial: Trial) -> Found:
    """Compare the provider with the CPU: first its answer, then the time of a step."""
    try:
        provider_s = _checked_step_s(trial, trial.provider)
        return Found(cpu_s=_checked_step_s(trial, CPU), provider_s=provider_s)
    except NodeError as error:
        return Found(failure=str(error))


def _checked_step_s(trial: Trial, provider: str, *, packs_corrections: bool = True) -> float:
    segment = Segment(
        trial.spec, trial.graph, threads=trial.threads, provider=provider, packs_corrections=packs_corrections
    )
    try:
        SelfCheck(segment, trial.answer)
    except WrongAnswers:
        if not segment.has_packed_corrections:
            raise
        return _checked_step_s(trial, provider, packs_corrections=False)
    with segment.aside(_POSITION + 1):
        return statistics.median(segment.run(0, (_POSITION,), 1).compute_s for _ in range(_STEPS))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dataclasses.asdict(try_provider(pickle.load(sys.stdin.buffer)))))
