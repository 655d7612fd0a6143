"""The orchestrator that serves a pipeline when another one starts: asked for on the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

from broker.bus import Bus, Delivery, Subscribed, Will
from orchestrator.service.tenure import taken
from schemas.errors import ContractError
from schemas.messages import OrchestratorStatus, decode, encode
from schemas.topics import ORCHESTRATOR_STATUS

PROOF_S = 3.0
"""One that is said to be here answers within this time; else it has gone without a word."""


def will_of(pipeline: str, orchestrator: str) -> Will:
    """What the broker says when the orchestrator's connection is lost."""
    gone = OrchestratorStatus(pipeline=pipeline, orchestrator=orchestrator, state="gone")
    topic = ORCHESTRATOR_STATUS.format(pipeline=pipeline)
    return Will(topic, encode(gone), qos=ORCHESTRATOR_STATUS.qos, retain=ORCHESTRATOR_STATUS.retain)


def ask_for_incumbent(bus: Bus, pipeline: str, orchestrator: str, *, take_over: bool) -> OrchestratorStatus | None:
    """Make sure that nobody serves the pipeline; to be called on a connected bus with no subscriptions.

    ``take_over``: whoever does is to end.

    Returns:
        What is known of the last one who served it; None where that is nothing.

    Raises:
        PipelineTaken: somebody serves it.
    """
    topic = ORCHESTRATOR_STATUS.format(pipeline=pipeline)
    bus.subscribe([topic], qos=1)
    asks = OrchestratorStatus(pipeline=pipeline, orchestrator=orchestrator, state="asks")
    last: OrchestratorStatus | None = None
    for event in _events(bus, time.monotonic() + PROOF_S):
        if isinstance(event, Subscribed):
            bus.publish(topic, encode(asks), qos=1)
        if not isinstance(event, Delivery):
            continue
        with suppress(ContractError):
            said = decode(event.payload, OrchestratorStatus)
            if said.orchestrator == orchestrator:  # what the broker keeps has come before this
                if last is None or last.state == "gone":
                    break
            elif said.state != "asks":
                last = said
            if last is not None and last.state == "here" and take_over:
                break
            if said.state == "here" and not event.retain:
                raise taken(said)
    return last


def _events(bus: Bus, until_s: float) -> Iterator[object]:
    while (left_s := until_s - time.monotonic()) > 0:
        yield from bus.poll(left_s)
