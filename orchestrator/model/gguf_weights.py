"""The values of tensors of a GGUF file as float32, in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
