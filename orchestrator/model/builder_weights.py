"""Weights of the builder's graphs as files are written: some rows at a time, from the checkpoint's mapped file.

The builder keeps references to the checkpoint's tensors, which are views of a file, and makes float32 ones of them when
the graph is saved. It makes whole ones, several at a time, up to a gigabyte and the largest tensor on top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    import torch

PIECE_VALUES = 4 << 20


class InRows(ir.LazyTensor):
    """A tensor as float32 whose rows are converted when they are written."""

    def __init__(self, rows: torch.Tensor, name: str) -> None:
        def whole() -> Any:
            return ir.Tensor(rows.float().contiguous().numpy(), name=name)

        super().__init__(whole, dtype=ir.DataType.FLOAT, shape=ir.Shape(rows.shape), name=name)
        self._rows = rows

    def tofile(self, file: Any) -> None:
        """Write the bytes of all rows."""
        count = max(1, PIECE_VALUES // (self._rows[0].numel() or 1))
        for start in range(0, len(self._rows), count):
            piece = self._rows[start : start + count].detach().float().contiguous()
            file.write(piece.numpy().tobytes())


def write_in_rows(model: Any) -> None:
    """Have the builder's class ``model`` write large float32 weights in pieces."""
    import torch

    make = model.make_initializer

    def make_in_rows(self: Any, tensor: Any, /, name: str, **others: Any) -> None:
        make(self, tensor, name, **others)
        is_large = isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.numel() > PIECE_VALUES
        if is_large and others == {"to": ir.DataType.FLOAT}:
            self.model.graph.initializers[name].const_value = InRows(tensor, name)

    model.make_initializer = make_in_rows
