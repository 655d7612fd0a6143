"""A decoder with its weights in one precision, made from the float32 graph that a checkpoint was converted to.

========  =================================================================================================
int4      blocks of 32 codes with a scale and a correction; embeddings and head of eight bits, the head in two passes
mixed     int4, but what hurts most when it is rounded in eight bits
int8      all in eight bits
fp16      float16 weights on disk and on the wire, computed in float32 (CPUs without half kernels would anyway,
          and rounding would otherwise depend on where the model is cut)
fp32      as it is
========  =================================================================================================

Weights that were rounded before keep their own blocks (`orchestrator.model.quantise.choice`). The numeric profiles
share these files: they differ in attributes that are set when a segment is assembled, and in how it is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.model.graph import copied
from orchestrator.model.precision import AUTO, QUANTISED
from orchestrator.model.progress import Progress
from orchestrator.model.quality import measure_quality
from orchestrator.model.quality_report import SourceRows
from orchestrator.model.quantise.choice import Chooser
from orchestrator.model.quantise.decoder import quantise
from orchestrator.model.quantise.outliers import Outliers
from orchestrator.model.rewrite import matrices, store_as_half, untranspose_embedding
from orchestrator.model.subject import Subject

if TYPE_CHECKING:
    from onnx import ModelProto

PROMISE = 0.95
"""How often the most likely token has to be the source's, where a precision is chosen by measurement."""


@dataclass(frozen=True)
class Candidate:
    """A graph whose weights are in files of the folder of the graph it was made from.

    Attributes:
        precision: of its weights; None if that is not known.
        carried: the share of the weights of matrices that have the very values of the source.
    """

    model: ModelProto
    precision: str | None
    carried: float


def choose(
    source: Subject, precision: str, profile: str, outliers: Outliers, rows: SourceRows, progress: Progress
) -> Candidate:
    """The graph in the precision asked for; of "auto" the smallest that keeps `PROMISE`.

    Args:
        source: the decoder in float32.
        profile: the numeric profile that it will be used in.
        outliers: channels to keep out of matrices that are quantised.

    Raises:
        BrokenModel: a weight is NaN or infinite, or a weight file is missing or too short.
        ConversionFailed: a value is beyond float16's range.
    """
    if precision != AUTO:
        return _in(precision, source, outliers, progress)
    for rounded in QUANTISED:  # from the smallest
        candidate = _quantised(source, rounded, 8, outliers, progress)
        if candidate.carried == 1:
            return candidate  # there is nothing that would be nearer to the source
        subject = Subject.of(candidate.model, source.folder, source.layers)
        agreement = measure_quality(subject, profile, rows, progress).argmax_agreement
        if agreement is None or agreement >= PROMISE:
            return candidate
    return _in("fp16", source, outliers, progress)


def _in(precision: str, source: Subject, outliers: Outliers, progress: Progress) -> Candidate:
    if precision in QUANTISED:
        return _quantised(source, precision, 4 if precision == "int4" else 8, outliers, progress)
    copy = copied(source.plan.decoder.model)
    untranspose_embedding(copy)
    if precision == "fp16":
        store_as_half(copy, source.folder, source.folder / "half.data", matrices(copy))
    return Candidate(copy, precision, 1.0 if precision == "fp32" else 0.0)


def _quantised(source: Subject, precision: str, most_bits: int, outliers: Outliers, progress: Progress) -> Candidate:
    """With matrices that were rounded before carried over if they have at most ``most_bits``."""
    copy, folder = copied(source.plan.decoder.model), source.folder
    chooser = Chooser(precision, len(source.layers) - 1, most_bits)
    path = folder / f"{precision}.data"
    quantise(copy, folder, path, chooser, outliers, lambda done, total: progress("quantise", done, total))
    untranspose_embedding(copy)
    store_as_half(copy, folder, folder / f"{precision}-rest.data", matrices(copy))
    return Candidate(copy, chooser.found_precision(), chooser.carried / max(1, chooser.weights))
