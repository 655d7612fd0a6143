"""The folded states of a segment: for each slot some copies, of which a run reads one and writes another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edge_node.effects import SendKvRows, WriteKvRows
from edge_node.errors import SegmentUnusable
from edge_node.runtime.kv_cache import zeros
from edge_node.wire.frames import kv_rows_frame
from edge_node.work import StateCopies
from schemas.codec import KV_HEADER_BYTES, Dtype
from schemas.messages import KvLayer
from schemas.segment_tensors import STATE_COPIES, STATE_PIECE_VALUES, past, present


@dataclass(frozen=True, slots=True)
class StateBuffer:
    """One state of one layer.

    Attributes:
        data: (slots, copies, ...).
        nothing: (...), the state at position 0.
        positions: (slots, copies), where the text ended that a copy is the state of.
    """

    past_name: str
    present_name: str
    data: NDArray[np.float32]
    nothing: NDArray[np.float32]
    positions: NDArray[np.int64]

    def place(self, slot: int, copy: int | None) -> NDArray[np.float32]:
        """A copy of a slot's state; None for that at position 0."""
        return self.nothing if copy is None else self.data[slot, copy]


class StateCache:
    """The states of a segment's layers; without any where no layer folds positions."""

    def __init__(self, layers: Sequence[KvLayer], *, slots: int, heir_of: StateCache | None = None) -> None:
        """Make the buffers, or take those of the same layers from ``heir_of``: both then write to the same ones."""
        self._by_layer: dict[int, tuple[StateBuffer, ...]] = {}
        for layer in layers:
            if layer.states:
                kept = heir_of._by_layer.get(layer.layer) if heir_of else None
                self._by_layer[layer.layer] = kept or _buffers(layer, slots)
        self.buffers = tuple(buffer for buffers in self._by_layer.values() for buffer in buffers)
        self._last: dict[int, int] = {}
        """By slot: the copy that the last run wrote."""

    def on_from_last(self, slot: int, position: int) -> StateCopies:
        """Which copies a run takes that goes on where the last one of its slot ended, whichever position that was."""
        source = self._last.get(slot) if position else None
        return StateCopies(source, 0 if source is None else (source + 1) % STATE_COPIES)

    def check(self, slot: int, position: int, copies: StateCopies) -> None:
        """Is the copy that a run wants to go on from the state at its first position?

        Raises:
            SegmentUnusable: no; the run would give another text without a word.
        """
        for buffer in self.buffers:
            found = 0 if copies.source is None else int(buffer.positions[slot, copies.source])
            if found != position:
                state = f"{buffer.past_name} is that at {found}"
                raise SegmentUnusable(f"a run is to begin at position {position}, and {state}: ask again")

    def written(self, slot: int, end: int, copies: StateCopies) -> None:
        """Note a run that ended before position ``end``."""
        self._last[slot] = copies.target
        for buffer in self.buffers:
            buffer.positions[slot, copies.target] = end

    def copy(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """Copy the states of a slot and copy to those of another."""
        for buffer in self.buffers:
            buffer.data[target] = buffer.data[source]
            buffer.positions[target] = buffer.positions[source]

    def read(self, message: SendKvRows) -> bytes:
        """Pieces of states as frames, each with the position that its state is of by now."""
        frames = []
        for block in message.blocks:
            assert block.copy is not None
            buffers = self._by_layer[block.layer]
            begin = block.part * STATE_PIECE_VALUES
            values = _flat(buffers, block.slot, block.copy)[begin : begin + STATE_PIECE_VALUES]
            frames.append(
                kv_rows_frame(
                    replace(block, position=int(buffers[0].positions[block.slot, block.copy])),
                    message.epoch,
                    message.number,
                    heads=1,
                    head_dim=len(values),
                    dtype=Dtype.FP32,
                    rows=values.tobytes(),
                )
            )
        return b"".join(frames)

    def write(self, piece: WriteKvRows) -> None:
        """Write a piece that arrived into a copy of its slot."""
        assert piece.copy is not None
        buffers = self._by_layer[piece.header.layer]
        values = np.frombuffer(piece.frame.payload, np.float32, offset=KV_HEADER_BYTES)
        begin = piece.header.part * STATE_PIECE_VALUES
        for buffer in buffers:
            buffer.positions[piece.slot, piece.copy] = piece.frame.position
            place = buffer.data[piece.slot, piece.copy].reshape(-1)
            start, stop = max(begin, 0), min(begin + len(values), place.size)
            if start < stop:
                place[start:stop] = values[start - begin : stop - begin]
            begin -= place.size


def _flat(buffers: Sequence[StateBuffer], slot: int, copy: int) -> NDArray[np.float32]:
    """A layer's states one behind the other."""
    return np.concatenate([buffer.data[slot, copy].reshape(-1) for buffer in buffers])


def _buffers(layer: KvLayer, slots: int) -> tuple[StateBuffer, ...]:
    dtype = np.dtype(np.float32)
    return tuple(
        StateBuffer(
            past(layer.layer, state.name),
            present(layer.layer, state.name),
            zeros((slots, STATE_COPIES, *state.shape), dtype),
            zeros(state.shape, dtype),
            np.full((slots, STATE_COPIES), -1, np.int64),
        )
        for state in layer.states
    )
