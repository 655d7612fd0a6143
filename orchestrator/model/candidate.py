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

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.model.precision import AUTO, QUANTISED
from orchestrator.model.progress import Progress
from orchestrator.model.quantise.choice import Chooser
from orchestrator.model.quantise.decoder import quantise
from orchestrator.model.quantise.outliers import Outliers
from orchestrator.model.rewrite import matrices, store_as_half, untranspose_embedding

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Candidate:
    """A graph whose weights are in files of the folder of the graph it was made from.

    Attributes:
        precision: of its weights.
        carried: the share of weights that have the very values of the source; 1 where none had to be rounded.
    """

    model: ModelProto
    precision: str
    carried: float


def candidates(
    model: ModelProto, folder: Path, precision: str, outliers: Outliers, progress: Progress
) -> Iterator[Candidate]:
    """The graphs to choose from, from the smallest, the last of which will do; one, unless ``precision`` is "auto".

    Args:
        model: in float32, its weights in files of ``folder``; it stays as it is.

    Raises:
        BrokenModel: a weight is NaN or infinite, or a weight file is missing or too short.
        ConversionFailed: a value is beyond float16's range.
    """
    if precision == AUTO:
        for rounded in QUANTISED:
            made = _quantised(model, folder, rounded, 8, outliers, progress)
            yield made
            if made.carried == 1:
                return
    if precision in QUANTISED:
        yield _quantised(model, folder, precision, 4 if precision == "int4" else 8, outliers, progress)
        return
    yield _floats(model, folder, "fp16" if precision == AUTO else precision)


def _quantised(
    model: ModelProto, folder: Path, precision: str, most_bits: int, outliers: Outliers, progress: Progress
) -> Candidate:
    copy = _copy(model)
    chooser = Chooser(precision, _last_layer(model), most_bits)
    path = folder / f"{precision}.data"
    quantise(copy, folder, path, chooser, outliers, lambda done, total: progress("quantise", done, total))
    untranspose_embedding(copy)
    store_as_half(copy, folder, folder / f"{precision}-rest.data", matrices(copy))
    return Candidate(copy, chooser.found_precision(), chooser.carried / max(1, chooser.weights))


def _floats(model: ModelProto, folder: Path, precision: str) -> Candidate:
    copy = _copy(model)
    untranspose_embedding(copy)
    if precision == "fp16":
        store_as_half(copy, folder, folder / "half.data", matrices(copy))
    return Candidate(copy, precision, 1.0 if precision == "fp32" else 0.0)


def _copy(model: ModelProto) -> ModelProto:
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _last_layer(model: ModelProto) -> int:
    return sum(1 for i in model.graph.input if i.name.endswith(".key")) - 1
