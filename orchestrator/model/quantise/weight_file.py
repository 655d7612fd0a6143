"""New weights of a graph, written to one file as they are made."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from orchestrator.model.quantise.blocks import storable_as_half

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto


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
        from onnx import TensorProto, helper

        values = np.ascontiguousarray(values)
        tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(values.dtype), dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._path.name), ("offset", self._file.tell()), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._file.write(values.data)
        self._graph.initializer.append(tensor)
        return name

    def add_floats(self, name: str, values: NDArray[np.float32]) -> str:
        """Add float32 values, as halves where those do; who reads them casts them to float32."""
        return self.add(name, values.astype(np.float16) if storable_as_half(values) else values)
