"""The inbox: what arrives on the bus, as events of the core; what breaks the contract ends here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from broker.bus import Delivery
from orchestrator.effects import Asker
from orchestrator.events import (
    Cancelled,
    ClientGone,
    Commanded,
    Event,
    NodeSaid,
    PlanHeard,
    Renewed,
    Submitted,
    TokensHeard,
)
from orchestrator.service.malformed import malformed, same
from orchestrator.service.responses import home, wanted, with_properties
from schemas.codec import Kind, decode_frames
from schemas.errors import ContractError, MessageError
from schemas.foreign_birth import foreign_birth
from schemas.logprobs import split_logprobs
from schemas.messages import CancelRequest, ClientWill, Plan, RenewRequest, SubmitRequest, decode
from schemas.topics import (
    CLIENT_WILL,
    CONTROL_REPLY,
    CONTROL_SUBMIT,
    HOME_COMMAND,
    LONGEST_TOPIC_BYTES,
    NODE_BIRTH,
    NODE_HEARTBEAT,
    NODE_REPLY,
    NODE_STATUS,
    PLAN,
    REQUEST_CANCEL,
    REQUEST_RENEW,
    REQUEST_SUBMIT,
    TOKEN,
    TOPICS,
    Topic,
)

OTHERS = tuple(
    topic.filter() for topic in (NODE_REPLY, REQUEST_SUBMIT, REQUEST_CANCEL, REQUEST_RENEW, CLIENT_WILL, CONTROL_SUBMIT)
)
"""What is said to the orchestrator, besides what may be stored and what goes without an acknowledgement."""
logger = logging.getLogger(__name__)

_MOST_LOGGED = 1000
_STORED = (NODE_BIRTH, NODE_STATUS, PLAN)
"""What may have been said before anybody listened; who stores anything else does not follow the contract."""


class Inbox:
    """Reads deliveries, and counts those that it rejects."""

    def __init__(self) -> None:
        self.rejected = 0
        self.on_heard: Callable[[str], None] = lambda _: None
        """Is called with the name of each node and client that says something."""
        self.is_member: Callable[[str], bool] = lambda _: True
        """May a node of this name be here? What others have said is not looked at: it was on its way, or is kept."""
        self.clear: Callable[[str], None] = lambda _: None
        """Is called with the topic of each message that the broker keeps and should not."""
        self._logged: set[tuple[str, str, type[ContractError]]] = set()

    def events(self, delivery: Delivery) -> Sequence[Event]:
        """The events that a delivery stands for.

        A message that breaks the contract is counted and logged once; of a command, whoever gave it is told.
        """
        if delivery.retain and not any(row.match(delivery.topic) for row in _STORED):
            self.rejected += 1
            self._clear(delivery)
            return ()
        try:
            if place := TOKEN.match(delivery.topic):
                return _tokens(place, delivery.payload)
            event = _parse(delivery)
            match event:
                case NodeSaid(name) if not self.is_member(name):
                    self._clear(delivery)
                    return ()
                case NodeSaid(name) if not delivery.retain:
                    self.on_heard(name)
                case Submitted(submit):
                    self.on_heard(submit.client)
            return () if event is None else (event,)
        except ContractError as error:
            self.reject(delivery, error)
            return malformed(delivery, error)

    def _clear(self, delivery: Delivery) -> None:
        if delivery.retain and delivery.payload:  # an empty one has just cleared it
            self.clear(delivery.topic)

    def reject(self, delivery: Delivery, error: ContractError) -> None:
        """Count a message that breaks the contract, and log the first of its kind of a sender."""
        self.rejected += 1
        topic = delivery.topic[:LONGEST_TOPIC_BYTES]  # a name of anybody's choice may have 64 KiB
        kind = (*_sender(delivery.topic), type(error))
        if kind not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(kind)
            logger.warning("rejected a message on %s: %s", topic, error)


def _parse(delivery: Delivery) -> Event | None:
    topic, payload = delivery.topic, delivery.payload
    for row in (NODE_HEARTBEAT, NODE_REPLY, NODE_BIRTH, NODE_STATUS):
        if payload and (place := row.match(topic)):
            return NodeSaid(place["node"], _of_node(payload, row), delivery.retain)
    if payload and PLAN.match(topic):
        return PlanHeard(decode(payload, Plan), delivery.retain)
    if place := REQUEST_SUBMIT.match(topic):
        return Submitted(with_properties(same(decode(payload, SubmitRequest), place), delivery.properties))
    if place := REQUEST_CANCEL.match(topic):
        return Cancelled(place["client"], same(decode(payload, CancelRequest), place))
    if place := REQUEST_RENEW.match(topic):
        return Renewed(place["client"], same(decode(payload, RenewRequest), place))
    if place := CLIENT_WILL.match(topic):
        will = same(decode(payload, ClientWill), place)
        return ClientGone(will.client, will.connection)
    if place := HOME_COMMAND.match(topic):
        return Commanded(home(place), decode(payload, *HOME_COMMAND.messages))
    if place := CONTROL_SUBMIT.match(topic):
        asker = Asker(**place, response=wanted(delivery.properties, place["client"], CONTROL_REPLY))
        return Commanded(asker, decode(payload, *CONTROL_SUBMIT.messages))
    return None


def _of_node(payload: bytes, row: Topic) -> Any:
    """What a node says. Of one of another protocol its birth is enough: people hear that it can't take part."""
    try:
        return decode(payload, *row.messages)
    except MessageError:
        if row is NODE_BIRTH and (birth := foreign_birth(payload)):
            return birth
        raise


def _tokens(place: dict[str, str], payload: bytes) -> Sequence[Event]:
    """The events of one message of tokens; a stage sends those of several requests together."""
    frames = [frame for frame in decode_frames(payload) if str(frame.epoch) == place["epoch"]]
    logprobs = {
        (frame.request, frame.position, frame.count): split_logprobs(frame.payload, frame.width)
        for frame in frames
        if frame.kind is Kind.LOGPROBS
    }
    return [
        TokensHeard(
            place["pipeline"],
            place["sender"],
            frame,
            logprobs.get((frame.request, frame.position, frame.count), ()) if logprobs else (),
        )
        for frame in frames
        if frame.kind is Kind.TOKENS
    ]


def _sender(topic: str) -> tuple[str, str]:
    """The row of a topic and who speaks there: the rest of a topic is the speaker's choice, and has no end."""
    for row in TOPICS:
        if place := row.match(topic):
            return row.pattern, place.get("sender") or place.get("client") or place.get("node") or ""
    return "", ""
