"""How good a converted model is, which is another question than whether it was converted rightly.

Short passages are fed to it as they stand, and each next token is compared with what the source makes of them in
float32: is the most likely one the same, and how likely is the one that follows? One unit is in memory at a time, and
logits of a few rows. Hidden states can be rounded on the way as types on the wire do, where three nodes would meet.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.model.precision import PROFILES
from orchestrator.model.progress import Progress, silent
from orchestrator.model.quality_report import LARGEST_LOSS, Quality, QualityReport, SourceRows, WireQuality
from orchestrator.model.segment_run import SegmentRun
from orchestrator.model.wire import as_received
from schemas.messages import WireDtype

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

    from orchestrator.model.subject import Subject

    Rounding = Callable[[NDArray[Any]], NDArray[Any]]
    Kept = Callable[[Mapping[str, NDArray[Any]]], None]

HEAD_ROWS = 32
"""Of logits at a time: 32 MB where there are 262,144 tokens."""
NODES = 3
"""As many share the model where types on the wire are judged."""
UNROUNDED = "fp32"
ROUNDING_WIRES: tuple[WireDtype, ...] = ("fp16", "int8")


@dataclass(frozen=True)
class Predictions:
    """The most likely next token of each row, [R] int64, and what the token that follows costs, [R] nats."""

    best: NDArray[Any]
    losses: NDArray[Any]

    @property
    def perplexity(self) -> float:
        return math.exp(self.losses.mean())

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Those of several parts of a text, one behind the other."""
        import numpy as np

        return cls(np.concatenate([part.best for part in parts]), np.concatenate([part.losses for part in parts]))

    def agreement(self, best: Sequence[int] | NDArray[Any]) -> float:
        """The share of rows with these most likely tokens."""
        import numpy as np

        return float((self.best == np.asarray(best)).mean())


def measure_quality(subject: Subject, profile: str, rows: SourceRows, progress: Progress = silent) -> Quality:
    """What ``subject`` makes of the passages, in a numeric profile, in one piece.

    Raises:
        UnsupportedModel: ONNX Runtime can't compute it.
    """
    return _quality(predict(subject, profile, rows.passages, progress=progress)[UNROUNDED], rows)


def measure_with_wires(
    subject: Subject, profile: str, rows: SourceRows, source_bytes: int, progress: Progress = silent
) -> QualityReport:
    """The same, and what each type on the wire does to it where three nodes share it.

    Args:
        source_bytes: size of the source's weights, to be kept with the figures.

    Raises:
        UnsupportedModel: see `measure_quality`.
    """
    cuts = even_cuts(subject.plan.num_units)
    roundings: dict[str, Rounding] = {wire: functools.partial(as_received, wire=wire) for wire in ROUNDING_WIRES}
    made = predict(subject, profile, rows.passages, roundings, cuts, progress)
    whole = made[UNROUNDED]
    wires = tuple(WireQuality(wire, made[wire].agreement(whole.best), made[wire].perplexity) for wire in ROUNDING_WIRES)
    return QualityReport(profile, _quality(whole, rows), source_bytes, cuts, wires)


def even_cuts(units: int) -> tuple[int, ...]:
    """The boundaries where ``NODES`` nodes meet that hold as many units each."""
    return tuple(sorted({round(units * node / NODES) for node in range(1, NODES)}))


def predict(
    subject: Subject,
    profile: str,
    passages: Sequence[Sequence[int]],
    roundings: Mapping[str, Rounding] = MappingProxyType({}),
    cuts: Sequence[int] = (),
    progress: Progress = silent,
    kept: Kept = lambda _: None,
) -> dict[str, Predictions]:
    """What a model makes of passages of two tokens or more: as it is (``UNROUNDED``), and with each of ``roundings``.

    Args:
        roundings: what becomes of hidden states [S, W] at ``cuts``; those in float16 stay as they are.
        kept: is given what each block keeps of each passage, by the names of its inputs.
    """
    units = subject.plan.num_units
    hidden: dict[str, list[NDArray[Any]]] = {}
    found: dict[str, Predictions] = {}
    for unit in range(units):
        progress("quality", unit, units)
        session = subject.open(unit, PROFILES[profile].accuracy_level)
        if unit in cuts:
            whole = hidden[UNROUNDED]
            hidden |= {name: _rounded(hidden.get(name, whole), rounding) for name, rounding in roundings.items()}
        if unit == 0:
            hidden = {UNROUNDED: [run_unit(subject, session, ids, None, kept) for ids in passages]}
        elif unit < units - 1:
            hidden = {
                name: [run_unit(subject, session, ids, rows, kept) for ids, rows in zip(passages, states, strict=True)]
                for name, states in hidden.items()
            }
        else:
            found = {name: _predicted(subject, session, passages, states) for name, states in hidden.items()}
    progress("quality", units, units)
    return found


def _predicted(
    subject: Subject, session: InferenceSession, passages: Sequence[Sequence[int]], states: Sequence[NDArray[Any]]
) -> Predictions:
    parts = [
        judge_rows(run_unit(subject, session, ids[a:b], rows[a:b]), ids[a + 1 : b + 1])
        for ids, rows in zip(passages, states, strict=True)
        for a, b in head_pieces(len(ids) - 1)
    ]
    return Predictions.joined(parts)


def _quality(made: Predictions, rows: SourceRows) -> Quality:
    known = bool(rows.best)
    return Quality(
        rows=len(made.best),
        argmax_agreement=made.agreement(rows.best) if known else None,
        perplexity=made.perplexity,
        source_perplexity=math.exp(sum(rows.losses) / len(rows.losses)) if known else None,
    )


def run_unit(
    subject: Subject,
    session: InferenceSession,
    ids: Sequence[int],
    hidden: NDArray[Any] | None,
    kept: Kept = lambda _: None,
) -> NDArray[Any]:
    """What a unit makes of a text from its beginning: [S, W], or logits [S, V]; ``kept`` is given what it keeps."""
    run = SegmentRun(session, subject.layers)
    made: NDArray[Any] = run.step(ids, None if hidden is None else hidden[None], range(len(ids)))[0]
    kept(run.cache)
    return made


def _rounded(states: Sequence[NDArray[Any]], rounding: Rounding) -> list[NDArray[Any]]:
    import numpy as np

    return [rounding(hidden) if hidden.dtype == np.float32 else hidden for hidden in states]


def head_pieces(rows: int) -> list[tuple[int, int]]:
    """The pieces that rows of the head are computed in; none of one row beside others, which kernels may compute in
    another way.
    """
    count = -(-rows // HEAD_ROWS)
    return [(rows * piece // count, rows * (piece + 1) // count) for piece in range(count)]


def judge_rows(logits: NDArray[Any], following: Sequence[int]) -> Predictions:
    """What rows of logits [R, V] say of the tokens that follow them."""
    import numpy as np

    logits = logits.astype(np.float32)
    peaks = logits.max(axis=-1)
    likely = logits[np.arange(len(logits)), np.asarray(following)]
    with np.errstate(invalid="ignore", over="ignore"):
        sums = np.exp(logits - peaks[:, None]).sum(axis=-1, dtype=np.float64)
        losses = np.log(sums) + peaks - likely
    return Predictions(logits.argmax(axis=-1), np.nan_to_num(losses, nan=LARGEST_LOSS).clip(0, LARGEST_LOSS))
