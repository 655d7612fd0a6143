"""The KV cache of a segment: one preallocated buffer per layer and part, shared by past and present.

Blocks with a short convolution keep its inputs in place of keys and values, one row for each position, too.

GroupQueryAttention writes new rows in place when past and present are the same buffer, so a decode step copies
nothing. Pages of a slot become resident only when rows are written to them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_node.effects import SendKvRows, WriteKvRows
from edge_node.errors import SegmentUnusable
from edge_node.runtime import process_heap
from edge_node.wire.frames import kv_rows_frame
from schemas.codec import KV_HEADER_BYTES, Dtype, may_keep
from schemas.messages import KvLayer
from schemas.segment_tensors import cache_parts, past, present

_WIRE: dict[np.dtype[Any], Dtype] = {
    np.dtype(np.float32): Dtype.FP32,
    np.dtype(np.float16): Dtype.FP16,
    np.dtype(np.int8): Dtype.INT8,
}
_VALUES = {wire: dtype for dtype, wire in _WIRE.items()}


@dataclass(frozen=True, slots=True)
class KvBuffer:
    """One layer's keys, values or inputs of its convolution: ``data`` is (slots, kv_heads, context, head_dim)."""

    past_name: str
    present_name: str
    data: NDArray[Any]

    def slot_pointer(self, slot: int) -> int:
        """Address of a slot's first row."""
        return int(self.data.ctypes.data) + slot * int(self.data.strides[0])

    def shape_of(self, slots: int) -> tuple[int, ...]:
        """(slots, kv_heads, context, head_dim): what the session sees of neighbouring slots."""
        return (slots, *self.data.shape[1:])

    @property
    def dtype(self) -> Dtype:
        """The element type, as on the wire."""
        return _WIRE[self.data.dtype]


class KvCache:
    """The KV cache of a segment: a buffer for each part of what a layer keeps."""

    def __init__(
        self,
        layers: Sequence[KvLayer],
        *,
        slots: int,
        context_tokens: int,
        dtypes: Mapping[str, Any],
        heir_of: KvCache | None = None,
    ) -> None:
        """Make the buffers, or take those of the same layers from ``heir_of``: both then write to the same rows.

        Args:
            dtypes: element type by input name.

        Raises:
            SegmentUnusable: the buffers to take are of another shape or type, or the plan has other rounded layers.
        """
        self._by_part: dict[tuple[int, int], KvBuffer] = {}
        for layer in layers:
            for part, (name, heads, width) in enumerate(cache_parts(layer)):
                past_name, present_name = past(layer.layer, name), present(layer.layer, name)
                shape = (slots, heads, context_tokens, width)
                dtype = np.dtype(dtypes[past_name])
                if not may_keep(layer, _WIRE.get(dtype)):
                    raise SegmentUnusable(f"layer {layer.layer} has a KV cache of {dtype}, which is not the plan's")
                kept = heir_of.buffer(layer.layer, part) if heir_of else None
                if kept is not None and (kept.data.shape, kept.data.dtype) != (shape, dtype):
                    raise SegmentUnusable(f"layer {layer.layer} has another KV cache than in the epoch before")
                self._by_part[layer.layer, part] = kept or KvBuffer(past_name, present_name, zeros(shape, dtype))
        self.buffers = tuple(self._by_part.values())

    def buffer(self, layer: int, part: int) -> KvBuffer | None:
        """A part of what a layer keeps (of keys and values 0 and 1), if it is here."""
        return self._by_part.get((layer, part))

    @property
    def value_bytes(self) -> int:
        """Size of the largest element."""
        return max((buffer.data.itemsize for buffer in self.buffers), default=1)

    def forget(self, slots: Collection[int]) -> None:
        """Give back the memory of these slots' rows."""
        for buffer in self.buffers:
            for slot in slots:
                process_heap.drop_pages(buffer.slot_pointer(slot), int(buffer.data.strides[0]))

    def read(self, message: SendKvRows) -> bytes:
        """Read the rows of a message as frames, one after the other."""
        frames = []
        for block in message.blocks:
            buffer = self._by_part[block.layer, block.part]
            data = buffer.data[block.slot, :, block.position : block.position + block.count]  # (heads, count, dim)
            frames.append(
                kv_rows_frame(
                    block,
                    message.epoch,
                    message.number,
                    heads=data.shape[0],
                    head_dim=data.shape[2],
                    dtype=buffer.dtype,
                    rows=data.transpose(1, 0, 2).tobytes(),
                )
            )
        return b"".join(frames)

    def write(self, rows: WriteKvRows) -> None:
        """Write rows that arrived into their slot."""
        header, frame = rows.header, rows.frame
        values = np.frombuffer(frame.payload, _VALUES[frame.dtype], offset=KV_HEADER_BYTES)
        values = values.reshape(frame.count, header.heads, header.head_dim)
        data = self._by_part[header.layer, header.part].data
        data[rows.slot, :, frame.position : frame.position + frame.count] = values.transpose(1, 0, 2)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of small pages from the system, none of which is there before it is written to; NumPy's come from the
    heap, whose huge pages may be there in full (``edge_node.runtime.process_heap``).
    """
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, dtype).reshape(shape)
