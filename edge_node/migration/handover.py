"""A handover: what a stage of a new epoch takes over from the epoch before (pure), rows that are here or are sent.

A new stage is the heir of at most one old stage of its node, by the rule of ``schemas.handover``. The two share slots
and KV buffers. A request is taken over as soon as it is opened on the new stage; where the old one has not yet computed
all rows that are said to be there (chunks of a prompt on their way through the ring), the request waits for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from edge_node.migration.kv_receiver import KvReceiver, Supplier
from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.kv_slots import SlotTable
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import SegmentSpec, StageKey, StageSpec
from schemas.handover import heirs
from schemas.messages import Basis
from schemas.units import has_layer


class OldStage(Protocol):
    """What a new stage needs of the old stage whose heir it is."""

    spec: StageSpec
    slots: SlotTable
    requests: dict[int, StageRequest]
    loaded: bool
    released: bool

    def give_up(self, number: int) -> StageRequest | None: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """A request taken over by a new stage: ``valid_length`` of its positions are here.

    ``slot`` is None where the request has none yet, ``before``, its state on the old stage, where the node did nothing
    for it so far; ``waits``: the old stage has not computed all of these positions yet; ``states``: where there are
    folded states of all layers that have one.
    """

    valid_length: int
    slot: int | None = None
    before: StageRequest | None = None
    waits: bool = False
    states: Checkpoints | None = None


@dataclass(slots=True)
class _Wait:
    tokens: int
    until_s: float | None = None


class Handover:
    """The handover to one stage of a new epoch: which requests, slots and rows it takes over."""

    def __init__(
        self, spec: StageSpec, basis: Basis, stages: Mapping[StageKey, OldStage], *, patience_s: float
    ) -> None:
        """``stages``: all of this node's; ``patience_s``: the longest to wait for an old stage to compute the rest."""
        source = heirs(basis.ring, spec.ring).get(spec.stage)
        old = None if source is None else stages.get((spec.pipeline, basis.epoch, source))
        segment = spec.segment
        if old and not (old.loaded and _slots_are_alike(old.spec.segment, segment)):
            old = None
        self.old = old
        self.slots: SlotTable = old.slots if old else SlotTable(segment.slots)
        self._patience_s = patience_s
        here = set(old.spec.segment.kv_layers) if old else set()
        self._inherits = not here.isdisjoint(segment.kv_layers)
        folded = {layer for layer in segment.kv_layers if layer.states}
        self._has_all_states, self._has_some_states = folded <= here, not folded.isdisjoint(here)
        suppliers = {
            layer.layer: Supplier(stage, ref.node, layer)
            for layer in segment.kv_layers
            for stage, ref in enumerate(basis.ring)
            if layer not in here and stage != source and has_layer(ref, layer.layer)
        }
        self._is_complete = all(layer in here or layer.layer in suppliers for layer in segment.kv_layers)
        known = old.requests if old else None
        self.incoming = (
            KvReceiver(spec, basis.epoch, suppliers, self.slots, known, inherits_states=self._has_some_states)
            if suppliers
            else None
        )
        self.same_segment = old is not None and old.spec.segment == segment
        """Nothing has to be loaded: the old stage's segment is the new one's, too."""
        self._waiting: dict[int, _Wait] = {}
        self._closed = False

    @property
    def waiting(self) -> Collection[int]:
        """Numbers of the requests that still wait for rows of the old stage."""
        return self._waiting.keys()

    def waits_for(self, key: StageKey) -> bool:
        """Is this the old stage, and is it still needed?"""
        return self.old is not None and self.old.spec.key == key and bool(self._waiting)

    @property
    def is_over(self) -> bool:
        """Is nothing left to take over?"""
        return self._closed and not self._waiting

    def take(self, number: int, moved_tokens: int) -> Taken:
        """Take over a request that is opened: from the old stage, or with the slot that its rows were sent to."""
        length = moved_tokens if self._is_complete else 0
        if self.incoming:
            length = min(length, self.incoming.length(number))
        before = self.old.requests.get(number) if self.old and not self.old.released else None
        if self.old is None or before is None:
            slot = self.incoming.claim(number) if self.incoming else None
            return Taken(0 if self._inherits else length, slot, states=self._states(number, None))
        waits = self._inherits and before.rule.valid_length < length
        if waits:
            before.moved = True
            self._waiting[number] = _Wait(length)
        else:
            self.old.give_up(number)
        # While it waits the old stage's states go on changing: they are shared, or else none of it can be told yet.
        states = self._states(number, before) if self._has_all_states or not waits else None
        return Taken(length, before.slot, before, waits, states)

    def _states(self, number: int, before: StageRequest | None) -> Checkpoints | None:
        """Where a request has folded states of all layers: those of the old stage, or of one position what was sent."""
        if self._has_all_states:
            return before.states if before else None
        sent = self.incoming.state(number) if self.incoming else None
        if sent is None or not self._has_some_states:
            return sent
        # Where a hold ran out the old stage may have gone on, and written another state over this one.
        return sent if before and before.states and before.states.includes(sent) else None

    def settled(self, now_s: float) -> list[tuple[int, int]]:
        """Settle the requests that wait no longer: (number, how many of its positions are valid now) of each."""
        done = []
        for number, wait in list(self._waiting.items()):
            assert self.old
            if wait.until_s is None:
                wait.until_s = now_s + self._patience_s
            state = self.old.requests.get(number)
            length = min(wait.tokens, state.rule.valid_length if state else 0)
            if length == wait.tokens or state is None or self.old.released or now_s >= wait.until_s:
                del self._waiting[number]
                self.old.give_up(number)
                done.append((number, length))
        return done

    def next_deadline_s(self) -> float | None:
        """When the next wait ends at the latest."""
        return min((wait.until_s for wait in self._waiting.values() if wait.until_s is not None), default=None)

    def forget(self, number: int) -> None:
        """Forget a request that ended."""
        self._waiting.pop(number, None)
        if self.incoming:
            self.incoming.forget(number)

    def close(self) -> None:
        """Take over no more requests and take in no more rows: the epoch is in force, or given up."""
        self._closed = True
        if self.incoming:
            self.incoming.close()
            self.incoming = None


def _slots_are_alike(old: SegmentSpec, new: SegmentSpec) -> bool:
    return (old.slots, old.context_tokens) == (new.slots, new.context_tokens)
