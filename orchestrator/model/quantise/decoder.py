"""Turns the matrices of a float32 decoder into blocks of codes; norms, biases and rotary tables stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.model.errors import BrokenModel
from orchestrator.model.quantise.blocks import BlockMatrix, row_pieces
from orchestrator.model.quantise.head import multiply_in_two_passes
from orchestrator.model.quantise.look_up import look_up
from orchestrator.model.quantise.matmul import Inputs, multiply
from orchestrator.model.quantise.outliers import Outliers, missing_weights, norms_before_products, shrunk, weight_index
from orchestrator.model.quantise.stored import store, store_in_planes
from orchestrator.model.quantise.weight_file import WeightFile
from orchestrator.model.rewrite import replace_nodes
from orchestrator.model.shapes import FLOAT
from orchestrator.model.weights import Source
from schemas.segment_tensors import IDS

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

LARGE_VOCABULARY = 8192
"""From so many tokens on the head's two passes are quicker than one with eight bits."""


@dataclass(frozen=True)
class Matrix:
    """A matrix [N, K] of the graph under its name there; ``weights`` are a view of a file.

    ``is_table``: of embeddings, or of the head.
    """

    name: str
    weights: NDArray[np.float32]
    is_table: bool


Choice = Callable[[Matrix], BlockMatrix | None]
"""In which blocks to keep a matrix; None to leave it as it is."""


@dataclass
class _Uses:
    """Nodes that multiply by a matrix, and that look its rows up, by index."""

    products: list[int] = field(default_factory=list)
    look_ups: list[int] = field(default_factory=list)


def quantise(
    model: ModelProto,
    folder: Path,
    path: Path,
    choose: Choice,
    outliers: Outliers,
    progress: Callable[[int, int], None],
) -> None:
    """Replace the matrices of ``model``, whose weights are in files of ``folder``, by what ``choose`` makes of them.

    Args:
        path: gets the new weights.
        outliers: channels to keep out.
        progress: called with matrices done and matrices in all.

    Raises:
        BrokenModel: a weight is NaN or infinite, or a weight file is missing or too short.
    """
    with WeightFile(model.graph, path) as file:
        _Quantiser(model.graph, folder, file, outliers).run(choose, progress)


class _Quantiser:
    def __init__(self, graph: GraphProto, folder: Path, file: WeightFile, outliers: Outliers) -> None:
        self.graph, self.folder, self.file = graph, folder, file
        self.uses = _uses(graph)
        products = {index: name for name, used in self.uses.items() for index in used.products}
        self.head = products[max(products)] if products else None
        norms = norms_before_products(graph)
        self.outliers = {x: channels for x, channels in outliers.items() if x in norms and self._all_multiplied(x)}
        self.norms = {x: norms[x] for x in self.outliers}
        self.inputs = Inputs(self.outliers)

    def _all_multiplied(self, x: str) -> bool:
        """Are all readers of ``x`` products in one plane?"""
        readers = {i for i, node in enumerate(self.graph.node) if x in node.input}
        products = {i for name, used in self.uses.items() if name != self.head for i in used.products}
        return readers <= products

    def run(self, choose: Choice, progress: Callable[[int, int], None]) -> None:
        tensors = {t.name: t for t in self.graph.initializer}
        replaced: dict[int, list[NodeProto]] = {}
        gone = set()
        for done, (name, used) in enumerate(self.uses.items()):
            progress(done, len(self.uses))
            place = Source.read(tensors[name], self.folder)
            weights = _weights(place, tuple(tensors[name].dims), transposed=bool(used.products))
            if not all(np.isfinite(weights[piece]).all() for piece in row_pieces(weights.shape)):
                raise BrokenModel(f"weight {name!r} has NaN or infinity in it: get the model anew, from its authors")
            blocks = choose(Matrix(name, weights, bool(used.look_ups) or name == self.head))
            if blocks is None:
                continue
            gone.add(name)
            replaced |= self._replace(name, used, weights, blocks)
        progress(len(self.uses), len(self.uses))
        for tensor in [tensors[name] for name in gone]:
            self.graph.initializer.remove(tensor)
        replaced |= {i: [] for i, n in enumerate(self.graph.node) if n.op_type == "Transpose" and n.input[0] in gone}
        nodes = [new for i, node in enumerate(self.graph.node) for new in replaced.get(i, [node])]
        replace_nodes(self.graph, [new for node in nodes for new in self._with_shrunk_weight(node)])

    def _replace(
        self, name: str, used: _Uses, weights: NDArray[np.float32], blocks: BlockMatrix
    ) -> dict[int, list[NodeProto]]:
        """What takes the place of the nodes that used a matrix, by their index."""
        in_two_passes = name == self.head and blocks.form.bits > 4 and blocks.rows >= LARGE_VOCABULARY
        if in_two_passes or (blocks.form.bits > 4 and not used.products):
            stored = store_in_planes(blocks, name, self.file, multiplied=in_two_passes)
        else:
            looked_up, multiplied = bool(used.look_ups), bool(used.products)
            stored = store(blocks, name, self.file, looked_up=looked_up, multiplied=multiplied)
        replaced = {}
        for index in used.products:
            x, y = self.graph.node[index].input[0], self.graph.node[index].output[0]
            if in_two_passes:
                replaced[index] = multiply_in_two_passes(x, stored, y)
                continue
            kept_out = None
            if x in self.outliers:
                kept_out = self.file.add_floats(f"{name}.outliers", missing_weights(weights, self.outliers[x]))
            replaced[index] = multiply(x, stored, y, self.inputs, kept_out)
        for index in used.look_ups:
            node = self.graph.node[index]
            replaced[index] = look_up(stored, node.input[1], node.output[0])
        return replaced

    def _with_shrunk_weight(self, node: NodeProto) -> list[NodeProto]:
        """A norm whose outlying channels are kept out reads a weight that makes them small."""
        from onnx import helper, numpy_helper

        x = node.output[0]
        if x not in self.norms:
            return [node]
        index = weight_index(node)
        weight, columns = node.input[index], self._columns_of(node.input[index])
        factors, small = f"{weight}/factors", f"{weight}/small"
        values = numpy_helper.from_array(shrunk(self.outliers[x], columns))
        made = [
            helper.make_node("Constant", [], [factors], value=values),
            helper.make_node("Mul", [weight, factors], [small]),
        ]
        node.input[index] = small
        return [*made, node]

    def _columns_of(self, weight: str) -> int:
        return next(int(t.dims[0]) for t in self.graph.initializer if t.name == weight)


def _uses(graph: GraphProto) -> dict[str, _Uses]:
    """Where float32 matrices are used, those used first first: embeddings may be looked up in a transposed head."""
    matrices = {t.name for t in graph.initializer if t.data_type == FLOAT and len(t.dims) == 2}
    transposed = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Transpose" and n.input[0] in matrices}
    uses: dict[str, _Uses] = {}
    for index, node in enumerate(graph.node):
        if node.op_type == "MatMul" and node.input[1] in matrices:
            uses.setdefault(node.input[1], _Uses()).products.append(index)
        elif node.op_type == "Gather" and node.input[1] == IDS:
            name = transposed.get(node.input[0], node.input[0])
            if name in matrices:
                uses.setdefault(name, _Uses()).look_ups.append(index)
    return uses


def _weights(place: Source, shape: tuple[int, ...], *, transposed: bool) -> NDArray[np.float32]:
    """[N, K], a view of a file where they are in one."""
    if place.path is None:
        stored = np.frombuffer(place.inline, np.float32).reshape(shape)
    else:
        stored = np.memmap(place.path, np.float32, "r", place.offset, shape)
    return stored.T if transposed else stored
