"""In which blocks to keep each matrix of a model.

Matrices whose weights were rounded before are carried over in the form they have. The others are rounded here, to four
bits or eight: tables (embeddings and head) always to eight, since a head is read by few tokens in full
(`orchestrator.model.quantise.head`), and, in between, those that cost most when they are rounded: what leads back from
the wide middle of a block, and the first and the last block. Gates of a delta rule have eight bits always.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from orchestrator.model.quantise.blocks import BlockMatrix
from orchestrator.model.quantise.decoder import Matrix
from orchestrator.model.quantise.fit import INT4, INT8, fitted
from orchestrator.model.quantise.grid import on_a_grid

_LAYER = re.compile(r"layers\.(\d+)\.")
_GATE = re.compile(r"linear_attn\.[ab]_proj\.")
"""Of a delta rule, whose errors add up over a text: decay and step, a thousandth of a model's weights."""


@dataclass
class Chooser:
    """Chooses for one model, and remembers what it found: call it for the matrices of a graph.

    Attributes:
        precision: "int4", "mixed" or "int8", for matrices that are rounded here.
        last_layer: number of the last block.
        most_bits: of matrices other than tables that are carried over; None for all.
        weights, carried: how many weights there are, and how many were carried over.
        bits: bits of codes of matrices other than tables.
    """

    precision: str
    last_layer: int
    most_bits: int = 8
    weights: int = 0
    carried: int = 0
    bits: set[int] = field(default_factory=set)

    def __call__(self, matrix: Matrix) -> BlockMatrix | None:
        self.weights += matrix.weights.size
        is_gate = bool(_GATE.search(matrix.name))
        found = on_a_grid(matrix.weights)
        if found is not None and (matrix.is_table or found.form.bits <= self.most_bits):
            self.carried += matrix.weights.size
        else:
            form = INT8 if matrix.is_table or is_gate or self._needs_eight(matrix) else INT4
            if matrix.weights.shape[1] % form.block:
                return None
            found = fitted(matrix.weights, form)
        if not (matrix.is_table or is_gate):
            self.bits.add(found.form.bits)
        return found

    def _needs_eight(self, matrix: Matrix) -> bool:
        if self.precision != "mixed":
            return self.precision == "int8"
        rows, columns = matrix.weights.shape
        layer = _LAYER.search(matrix.name)
        return columns > rows or (layer is not None and int(layer[1]) in (0, self.last_layer))

    def found_precision(self) -> str:
        """What the matrices have, all in all."""
        return f"int{next(iter(self.bits))}" if len(self.bits) == 1 else "mixed"
