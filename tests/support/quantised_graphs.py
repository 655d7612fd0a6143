"""Small graphs whose matrices are put in blocks as a conversion does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from orchestrator.model.quantise.blocks import BlockMatrix
from orchestrator.model.quantise.decoder import Matrix, quantise
from orchestrator.model.quantise.fit import INT8, fitted
from orchestrator.model.quantise.grid import on_a_grid
from orchestrator.model.rewrite import untranspose_embedding
from schemas.segment_tensors import IDS

WIDTH = 64
WEIGHTS = "5" * 64
"""The name of the weights' file, as blobs have."""


def graph(
    weights: dict[str, NDArray[np.float32]], nodes: list[tuple[str, list[str], str]], output: str, width: int = WIDTH
) -> ModelProto:
    inputs = [helper.make_tensor_value_info(IDS, 7, [1, "S"]), helper.make_tensor_value_info("x", 1, [1, "S", width])]
    made = helper.make_graph(
        [helper.make_node(kind, inputs, [y]) for kind, inputs, y in nodes],
        "test",
        inputs,
        [helper.make_tensor_value_info(output, 1, None)],
        [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10)


def as_found(matrix: Matrix) -> BlockMatrix | None:
    return on_a_grid(matrix.weights) or fitted(matrix.weights, INT8)


def quantised(model: ModelProto, folder: Path, outliers: dict[str, NDArray[np.int64]] | None = None) -> ModelProto:
    quantise(model, folder, folder / WEIGHTS, as_found, outliers or {}, lambda *_: None)
    untranspose_embedding(model)
    return model
