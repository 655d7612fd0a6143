"""Makes nodes of a graph one after the other, with names for what is between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.model.quantise.weight_file import Floats

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

FLOAT, INT32 = 1, 6  # onnx.TensorProto.DataType
CONTRIB = "com.microsoft"


class NodeMaker:
    """The ``nodes`` made so far; their names begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix

    def make(self, kind: str, inputs: list[str], *, outputs: int = 1, **attributes: Any) -> str:
        """Append a node; returns the name of its last output."""
        from onnx import helper

        name = f"{self._prefix}/{kind}_{len(self.nodes)}"
        names = [f"{name}/output_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=name, **attributes))
        return names[-1]

    def constant(self, values: NDArray[Any] | np.generic) -> str:
        """Append a constant; returns its name."""
        from onnx import numpy_helper

        return self.make("Constant", [], value=numpy_helper.from_array(np.asarray(values)))

    def indices(self, *values: int) -> str:
        """Append a constant of shape [n], int64."""
        return self.constant(np.array(values, np.int64))

    def widened(self, values: Floats, name: str | None = None) -> str:
        """Append what gives stored values as float32, if they are not; ``name``: of some of them, gathered."""
        name = name or values.name
        if values.factor is None:
            return name
        wide = self.make("Cast", [name], to=FLOAT)
        return self.make("Mul", [wide, self.constant(np.float32(1 / values.factor))])

    def rename(self, y: str) -> list[NodeProto]:
        """Call the last output ``y``; returns all nodes."""
        self.nodes[-1].output[-1] = y
        return self.nodes
