"""Standing by: an orchestrator that serves as soon as the one that serves is not heard of any more."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from broker.bus import Bus, Connected, Delivery, Disconnected
from orchestrator.model.store import ModelStore
from orchestrator.service.database import Database
from orchestrator.service.wishes import take_over
from schemas.errors import ContractError
from schemas.messages import OperatorWishes, OrchestratorStatus, decode, encode
from schemas.topics import OPERATOR_WISHES, ORCHESTRATOR_STATUS

logger = logging.getLogger(__name__)

ASK_S = 1.0
"""So often the one that serves is asked for a word."""
SILENCE_S = 5.0
"""After this long without one it is replaced; it may have reconnected by then."""


@dataclass
class Incumbent:
    """What was heard of the orchestrator that serves (pure). Times are of a monotonic clock."""

    heard_s: float
    """When it last said something, or we began to listen."""
    is_gone: bool = False
    """It has ended of its own accord."""

    def take(self, said: OrchestratorStatus, now_s: float, *, retained: bool) -> None:
        """Take in a status of another orchestrator.

        A will does not tell the generation. It says that a connection was lost, which may be back in a moment.
        """
        if said.state == "here":
            self.is_gone = False
            if not retained:
                self.heard_s = now_s
        elif said.state == "gone" and said.generation:
            self.is_gone = True

    def cut_off(self, now_s: float) -> None:
        """Begin anew: it was our own connection that was lost."""
        self.heard_s, self.is_gone = now_s, False

    def is_missing(self, now_s: float) -> bool:
        """Is it time to serve in its place?"""
        return self.is_gone or now_s >= self.heard_s + SILENCE_S


def stand_by(
    bus: Bus, pipeline: str, orchestrator: str, state: Database, store: ModelStore, stop: threading.Event
) -> bool:
    """Wait on a connected bus until the pipeline needs another orchestrator, and learn what operators want meanwhile.

    While the model that was served is not in the store it goes on waiting: another one that stands by may have it.

    Returns:
        Whether it does; false once ``stop`` is set.
    """
    status, wishes = ORCHESTRATOR_STATUS.format(pipeline=pipeline), OPERATOR_WISHES.format(pipeline=pipeline)
    bus.subscribe([status, wishes], qos=1)
    asks = encode(OrchestratorStatus(pipeline=pipeline, orchestrator=orchestrator, state="asks"))
    incumbent, ask_s = Incumbent(time.monotonic()), 0.0
    served: str | None = None
    while not stop.is_set():
        now_s = time.monotonic()
        if bus.connected and incumbent.is_missing(now_s) and served in (None, *store.names()):
            return True
        if now_s >= ask_s:
            ask_s = now_s + ASK_S
            if bus.connected:
                bus.publish(status, asks)
        for event in bus.poll(min(ASK_S, 0.25)):
            match event:
                case Delivery(topic) if topic == wishes and event.payload:
                    served = _learn(event.payload, served, state, store)
                case Delivery():
                    said = _read(event.payload)
                    if said and said.orchestrator != orchestrator:
                        incumbent.take(said, time.monotonic(), retained=event.retain)
                case Connected() | Disconnected():
                    incumbent.cut_off(time.monotonic())
    return False


def _read(payload: bytes) -> OrchestratorStatus | None:
    try:
        said: OrchestratorStatus = decode(payload, OrchestratorStatus)
    except ContractError:
        return None
    return said


def _learn(payload: bytes, served: str | None, state: Database, store: ModelStore) -> str | None:
    """Learn what operators want; the model that is served, which was ``served`` before."""
    try:
        model = take_over(decode(payload, OperatorWishes), state, store)
    except ContractError:
        return served
    if model not in (None, served, *store.names()):
        logger.warning(
            "model %s is served and not in this store: until it is, this orchestrator waits even when nobody serves;"
            " bring it over with linguabus model export there, and model add FILE here",
            model,
        )
    return model
