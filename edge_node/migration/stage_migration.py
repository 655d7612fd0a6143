"""A stage's part in live moves (pure): it is held, sends KV rows, and takes over from a stage of the epoch before."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from edge_node.effects import Effect, Reply
from edge_node.migration.handover import Handover, Taken
from edge_node.migration.hold import Hold
from edge_node.migration.kv_sender import KvSender
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import StageKey, StageSpec
from schemas.codec import Frame, Kind
from schemas.messages import CopyKv, FinishKv, HoldRequests, RequestsHeld


class MovingStage(Protocol):
    """What a move needs of its stage."""

    spec: StageSpec
    kv_value_bytes: int
    requests: dict[int, StageRequest]

    def hold(self) -> None: ...

    def go_on(self) -> None: ...

    def begin(self, number: int, valid_length: int) -> None: ...


class StageMigration:
    """What a stage does for a move, besides its work."""

    def __init__(self, stage: MovingStage, handover: Handover | None) -> None:
        self._stage = stage
        self._handover = handover
        """Until the stage's epoch is in force and nothing of the one before is missing."""
        self._outgoing: KvSender | None = None
        """While KV rows are copied to the next epoch's stages."""
        self._hold: Hold | None = None

    # --- held -------------------------------------------------------------------------------------------------

    @property
    def is_held(self) -> bool:
        """Is the stage held, so that no step may begin?"""
        return self._hold is not None

    def hold(self, message: HoldRequests) -> None:
        """Begin no new step; ``tick`` reports when the ring owes nothing."""
        self._hold = Hold(message.limit_s)
        self._stage.hold()

    def go_on(self) -> None:
        """Give the move up: copy no more, and go on with what is held."""
        self._outgoing = None
        self._end_hold()

    def _end_hold(self) -> None:
        if self._hold:
            self._hold = None
            self._stage.go_on()

    def _tick_hold(self, hold: Hold, now_s: float) -> list[Effect]:
        if hold.is_over(now_s):
            self._end_hold()
            return []
        held = None if self.unsettled else hold.report(self._stage.requests)
        if held is None:
            return []
        spec = self._stage.spec
        reply = RequestsHeld(node=spec.node, pipeline=spec.pipeline, epoch=spec.epoch, requests=held)
        return [Reply(reply)]

    # --- a source ---------------------------------------------------------------------------------------------

    def copy(self, message: CopyKv) -> None:
        """Send the KV rows of all open requests, and further ones as they come; a repeated command changes nothing."""
        if self._outgoing is None or self._outgoing.to_epoch != message.to_epoch:
            self._outgoing = KvSender(message, self._stage.spec, value_bytes=self._stage.kv_value_bytes)

    def finish(self, message: FinishKv) -> None:
        """Send the last rows, as decoding is held."""
        if self._outgoing:
            self._outgoing.finish(message)

    @property
    def is_copying(self) -> bool:
        """Are KV rows being copied to another stage, even if there are none to send at the moment?"""
        return self._outgoing is not None

    @property
    def has_transfer(self) -> bool:
        """Are there rows to send, or is there something to report about them?"""
        return self._outgoing is not None and self._outgoing.is_due(self._stage.requests)

    def next_transfer(self, now_s: float) -> list[Effect]:
        """A few messages of rows, and a report when one is due."""
        return self._outgoing.next_effects(self._stage.requests, now_s) if self._outgoing else []

    # --- an heir ----------------------------------------------------------------------------------------------

    def take(self, number: int, moved_tokens: int) -> Taken:
        """Take over a request that is opened, as far as it is here."""
        return self._handover.take(number, moved_tokens) if self._handover else Taken(0)

    @property
    def unsettled(self) -> Collection[int]:
        """Numbers of requests that were taken over before all of their rows were here."""
        return self._handover.waiting if self._handover else ()

    def make_room(self) -> bool:
        """Free the slot of a request that rows came for but that is not open; False if there is none."""
        incoming = self._handover.incoming if self._handover else None
        return incoming is not None and incoming.evict()

    def forget(self, number: int) -> None:
        """Forget a request that ended."""
        if self._handover:
            self._handover.forget(number)

    def waits_for(self, key: StageKey) -> bool:
        """Is that stage of the epoch before still needed?"""
        return self._handover is not None and self._handover.waits_for(key)

    def close(self) -> None:
        """End the handover: the stage's epoch is in force, or over."""
        if self._handover:
            self._handover.close()

    # --- frames and time --------------------------------------------------------------------------------------

    def frame(self, sender: str, frame: Frame, now_s: float) -> list[Effect] | None:
        """Take in KV rows or an acknowledgement; None for a frame that belongs to no move."""
        if frame.kind is Kind.KV_ROWS and self._handover and self._handover.incoming:
            return self._handover.incoming.rows(sender, frame)
        if frame.kind is Kind.KV_ACK and self._outgoing:
            is_known = self._outgoing.acknowledged(sender, frame.position, frame.attempt, now_s)
            return [] if is_known else None
        return None

    def tick(self, now_s: float) -> list[Effect]:
        """Act on time: report or end a hold, begin requests that have waited for their rows."""
        effects = self._tick_hold(self._hold, now_s) if self._hold else []
        if self._handover:
            for number, length in self._handover.settled(now_s):
                self._stage.begin(number, length)
            if self._handover.is_over:
                self._handover = None
        return effects

    def deadlines_s(self) -> tuple[float | None, float | None]:
        """When ``tick`` next has something to do."""
        return (
            self._hold.until_s if self._hold else None,
            self._handover.next_deadline_s() if self._handover else None,
        )
