"""New weights of a graph, written to one file as they are made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from orchestrator.model.weights import refer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto

_HALF_EXPONENT = 15
"""Of the largest value that is stored as a half: small ones keep their bits, then."""


@dataclass(frozen=True)
class Floats:
    """A weight of type float32, or one of type float16 whose values are ``factor`` times as large."""

    name: str
    factor: float | None


class WeightFile:
    """Adds weights to a graph, their bytes to ``path``, which is in the folder of the graph's other weights."""

    def __init__(self, graph: GraphProto, path: Path) -> None:
        self._graph = graph
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, name: str, values: NDArray[Any]) -> str:
        """Add a weight and return its name."""
        return self.add_rows(name, [values])

    def add_rows(self, name: str, pieces: Iterable[NDArray[Any]]) -> str:
        """Add a weight of at least one row, some of its rows after the other; returns its name."""
        from onnx import TensorProto, helper

        begin, rows = self._file.tell(), 0
        for piece in pieces:
            self._file.write(np.ascontiguousarray(piece).data)
            rows += len(piece)
        shape = rows, *piece.shape[1:]
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(piece.dtype), dims=shape)
        refer(tensor, self._path.name, begin, self._file.tell() - begin)
        self._graph.initializer.append(tensor)
        return name

    def add_floats(self, name: str, values: NDArray[np.float32]) -> Floats:
        """Add float32 values as they are: ONNX Runtime maps them, where it would widen halves into its own memory."""
        return Floats(self.add(name, values), None)

    def add_halves(self, name: str, values: NDArray[np.float32]) -> Floats:
        """Add float32 values as halves, which take half the disk, if those keep them but for a rounding of 1/2000."""
        size = float(np.abs(values).max(initial=0))
        factor = 2.0 ** (_HALF_EXPONENT - math.frexp(size)[1]) if size else 1.0
        halves = (values * np.float32(factor)).astype(np.float16)
        kept = halves.astype(np.float32) / np.float32(factor)
        if (np.abs(kept - values) > np.abs(values) / 2000).any():
            return self.add_floats(name, values)
        return Floats(self.add(name, halves), factor)
