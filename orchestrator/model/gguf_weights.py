"""The values of tensors of a GGUF file as float32, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from orchestrator.model.errors import BrokenModel

if TYPE_CHECKING:
    import numpy as np
    from gguf import ReaderTensor
    from numpy.typing import NDArray

PIECE_VALUES = 1 << 20


def hugging_face_shape(tensor: ReaderTensor) -> tuple[int, ...]:
    """Its shape, the outermost dimension first."""
    return tuple(int(size) for size in reversed(tensor.shape))


def dequantised(tensor: ReaderTensor) -> Iterator[NDArray[np.float32]]:
    """A tensor of at least two dimensions, some of its rows at a time."""
    from gguf import dequantize

    shape = hugging_face_shape(tensor)
    rows = max(1, PIECE_VALUES // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        yield dequantize(tensor.data[start : start + rows], tensor.tensor_type)


def finite(tensor: ReaderTensor, pieces: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """The same pieces of a tensor, looked at while they are read: a model with NaN in it is refused at once.

    Raises:
        BrokenModel: a value is NaN or infinite.
    """
    import numpy as np

    for piece in pieces:
        if not np.isfinite(piece).all():
            raise BrokenModel(f"tensor {tensor.name} has NaN or infinity in it: get the model anew, from its authors")
        yield piece


def dequantised_whole(tensor: ReaderTensor) -> NDArray[np.float32]:
    """All of a tensor."""
    import numpy as np
    from gguf import dequantize

    shape = hugging_face_shape(tensor)
    if len(shape) < 2:
        whole: NDArray[np.float32] = dequantize(tensor.data, tensor.tensor_type)
        return whole
    values = np.empty(shape, np.float32)
    position = 0
    for piece in dequantised(tensor):
        values[position : position + len(piece)] = piece
        position += len(piece)
    return values
