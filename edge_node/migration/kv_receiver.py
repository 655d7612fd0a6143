"""KV rows that come in from stages of the epoch before (pure): which are taken, where they go, how far they reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_node.effects import Effect, SendFrame, WriteKvRows
from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.position_rule import PositionRule
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import StageSpec
from edge_node.wire.frames import kv_ack_frame
from edge_node.wire.topics import StageTopics
from schemas.codec import Frame, KvRowsHeader, may_keep, unpack_kv_header
from schemas.messages import Epoch, KvLayer
from schemas.segment_tensors import cache_parts, state_pieces


@dataclass(frozen=True, slots=True)
class Supplier:
    """Who sends the rows of a layer: a stage of the epoch before."""

    stage: int
    node: str
    layer: KvLayer

    def sends(self, frame: Frame, header: KvRowsHeader) -> bool:
        """Are the rows, or the piece of states, of the layer's shape, and rounded as those here are?"""
        if not may_keep(self.layer, frame.dtype):
            return False
        pieces = state_pieces(self.layer)
        if pieces:
            return header.part < len(pieces) and (header.heads, header.head_dim) == (1, pieces[header.part])
        parts = cache_parts(self.layer)
        if header.part >= len(parts):
            return False
        return (header.heads, header.head_dim) == (parts[header.part].heads, parts[header.part].dim)


@dataclass(slots=True)
class _Pending:
    """A request that is not open here yet, with a slot for its rows."""

    slot: int
    rule: PositionRule


class KvReceiver:
    """Takes in the KV rows that one stage of a new epoch is sent.

    Rows go to the slot that their request has on the old stage whose heir the new one is. A stage that is nobody's heir
    gives out slots itself; it does not hear of requests that end meanwhile, so where slots run out, those requests lose
    theirs that have been sent nothing for longest.
    """

    def __init__(
        self,
        spec: StageSpec,
        basis: Epoch,
        suppliers: Mapping[int, Supplier],
        slots: SlotTable,
        known: Mapping[int, StageRequest] | None,
        *,
        inherits_states: bool = False,
    ) -> None:
        """``suppliers`` by layer; ``known``: the requests of the stage this one is the heir of, from which there are
        folded states, too, if it ``inherits_states``.
        """
        self._spec = spec
        self._basis = basis
        self._suppliers = suppliers
        self._slots = slots
        self._known = known
        self._inherits_states = inherits_states
        self._topics = StageTopics(spec)
        self._pending: dict[int, _Pending] = {}
        self._lengths: dict[int, dict[tuple[int, int], int]] = {}
        """Rows taken in by request, layer and part."""
        self._states: dict[int, dict[tuple[int, int], tuple[int, int]]] = {}
        """Pieces of folded states taken in by request, layer and number: (position, copy) that each is of."""
        self._acknowledged: dict[int, int] = {}
        """Number of the newest message by supplying stage."""

    def rows(self, sender: str, frame: Frame) -> list[Effect] | None:
        """Take in rows that arrived; None where they do not belong here.

        Raises:
            FrameShapeMismatch: the frame contradicts itself.
        """
        header = unpack_kv_header(frame)
        supplier = self._suppliers.get(header.layer)
        stop = frame.position + frame.count
        if supplier is None or supplier.node != sender or not supplier.sends(frame, header):
            return None
        if stop > self._spec.segment.context_tokens:
            return None
        effects = self._acknowledge(supplier, frame)
        slot = self._slot_of(frame.request)
        if slot is None:
            return effects
        if supplier.layer.states:
            copy = self._copy_of(frame)
            if copy is None:
                return effects
            pieces = self._states.setdefault(frame.request, {})
            pieces[header.layer, header.part] = frame.position, copy
            return [WriteKvRows(self._spec.key, slot, header, frame, copy), *effects]
        lengths = self._lengths.setdefault(frame.request, {})
        reached = lengths.get((header.layer, header.part), 0)
        if frame.position > reached:  # rows before them were lost: these are computed again, too
            return effects
        lengths[header.layer, header.part] = max(reached, stop)
        if frame.request in self._pending:
            rule = self._pending[frame.request].rule
            rule.valid_length = max(rule.valid_length, stop)
        return [WriteKvRows(self._spec.key, slot, header, frame), *effects]

    def _copy_of(self, frame: Frame) -> int | None:
        """The copy that a piece belongs to: that of the states which are here already; None where there is none."""
        state = self._known.get(frame.request) if self._known is not None else None
        if state is None or not self._inherits_states:
            return 0
        return state.states.copy_at(frame.position) if state.states else None

    def state(self, request: int) -> Checkpoints | None:
        """Where a request has its folded states here; None where they are not here in full."""
        pieces = self._states.get(request, {})
        wanted = [
            pieces.get((number, part))
            for number, supplier in self._suppliers.items()
            for part in range(len(state_pieces(supplier.layer)))
        ]
        if not wanted or wanted[0] is None or wanted.count(wanted[0]) < len(wanted):
            return None
        return Checkpoints(dict([wanted[0]]))

    def _acknowledge(self, supplier: Supplier, frame: Frame) -> list[Effect]:
        """Acknowledge a message once, though each of its frames has its number for an attempt."""
        if self._acknowledged.get(supplier.stage) == frame.attempt:
            return []
        self._acknowledged[supplier.stage] = frame.attempt
        data = kv_ack_frame(self._basis, frame.attempt, self._spec.stage)
        return [SendFrame(self._topics.of(self._basis, supplier.stage, supplier.node), data)]

    def _slot_of(self, request: int) -> int | None:
        if self._known is not None:
            state = self._known.get(request)
            if state is None:
                self._lengths.pop(request, None)  # it ended
                self._states.pop(request, None)
            return state.slot if state else None
        pending = self._pending.pop(request, None)
        if pending is None:
            grant = self._slots.take(None, 0) or (self.evict() and self._slots.take(None, 0))
            if not grant:
                return None
            pending = _Pending(grant.slot, PositionRule())
            self._slots.use(pending.slot, pending.rule)
        self._pending[request] = pending  # the last one now
        return pending.slot

    def evict(self) -> bool:
        """Free the slot of the request that has been sent nothing for longest; False if there is none."""
        for request in self._pending:
            self.forget(request)
            return True
        return False

    def forget(self, request: int) -> None:
        """Forget a request that ended before it was opened here."""
        self._lengths.pop(request, None)
        self._states.pop(request, None)
        pending = self._pending.pop(request, None)
        if pending is not None:
            self._slots.park(request, pending.slot, 0)

    def claim(self, request: int) -> int | None:
        """The slot that an opened request has been given here, which is its own from now on; None if it has none."""
        pending = self._pending.pop(request, None)
        return pending.slot if pending else None

    def length(self, request: int) -> int:
        """Positions whose rows are here, of every layer that is sent; all where none has rows."""
        lengths = self._lengths.get(request, {})
        reached = (
            lengths.get((number, part), 0)
            for number, supplier in self._suppliers.items()
            for part in range(len(cache_parts(supplier.layer)))
        )
        return min(reached, default=self._spec.segment.context_tokens)

    def close(self) -> None:
        """Free all slots of requests that are not open: the epoch is in force, so they have ended."""
        while self.evict():
            pass
