"""The outbox of a node: who it is and whether it is there (retained), answers, frames."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from broker.bus import Bus, Will
from broker.errors import PayloadTooLarge, QueueFull
from edge_node.errors import BrokerTooTight
from schemas import messages
from schemas.codec import decode_frames, request_id
from schemas.messages import NodeBirth, NodeStatus, RequestFailed
from schemas.topics import NODE_BIRTH, NODE_REPLY, NODE_STATUS

_log = logging.getLogger(__name__)


def client_id_of(node: str, incarnation: int) -> str:
    """A name for the node's connection. The broker ends that of who has the same one: nobody is to guess it."""
    return f"node-{node}-{incarnation}-{secrets.token_hex(8)}"


def will_of(node: str, incarnation: int) -> Will:
    """The will of a node: what the broker says for one that vanishes."""
    status = NodeStatus(node=node, incarnation=incarnation, online=False, reason="connection lost")
    return Will(NODE_STATUS.format(node=node), messages.encode(status), qos=1, retain=True)


class Outbox:
    """Publishes a node's messages. Those that the broker would not pass on are not sent, and said to be so."""

    def __init__(self, bus: Bus, *, node: str, incarnation: int) -> None:
        self._bus = bus
        self._node = node
        self._incarnation = incarnation
        self._reply_topic = NODE_REPLY.format(node=node)

    def publish(self, topic: str, message: Any, *, retain: bool = False, qos: int = 1) -> None:
        """Send a message in JSON."""
        self._send(topic, messages.encode(message), qos=qos, retain=retain)

    def reply(self, message: Any) -> None:
        """Answer the orchestrator."""
        self.publish(self._reply_topic, message)

    def fail_requests(self, data: bytes, error: PayloadTooLarge) -> None:
        """Say that the requests of these frames fail: the broker's limit has become lower since the plan."""
        for request, epoch in {frame.request: frame.epoch for frame in decode_frames(data)}.items():
            self.reply(
                RequestFailed(
                    node=self._node, epoch=epoch, request=request_id(request), code="internal", reason=str(error)
                )
            )

    def send_rows(self, topic: str, data: bytes) -> None:
        """Send frames that must not be lost. A move whose rows do not arrive is given up in time."""
        self._send(topic, data, qos=1, retain=False)

    def _send(self, topic: str, data: bytes, *, qos: int, retain: bool) -> None:
        try:
            self._bus.publish(topic, data, qos=qos, retain=retain)
        except (PayloadTooLarge, QueueFull) as error:
            _log.error("a message on %s was not sent: %s", topic, error)

    def register(self, birth: NodeBirth, *, leaving: str = "", resting: str = "") -> None:
        """Say who this node is, and that it is there.

        Raises:
            BrokerTooTight: not even the birth fits into a message.
        """
        data = messages.encode(birth)
        try:
            self._bus.publish(NODE_BIRTH.format(node=self._node), data, qos=1, retain=True)
        except PayloadTooLarge as error:
            raise BrokerTooTight(error.size_bytes, error.limit_bytes) from None
        self.say_online(leaving=leaving, resting=resting)

    def say_online(self, *, leaving: str = "", resting: str = "") -> None:
        """Say that the node is there; why it wants to end, or else no layers for now, if it does."""
        status = NodeStatus(
            node=self._node,
            incarnation=self._incarnation,
            online=True,
            leaving=bool(leaving),
            resting=bool(resting) and not leaving,
            reason=leaving or resting,
        )
        self.publish(NODE_STATUS.format(node=self._node), status, retain=True)

    def say_goodbye(self) -> None:
        """Say that the node ends of its own accord."""
        status = NodeStatus(
            node=self._node, incarnation=self._incarnation, online=False, leaving=True, reason="stopped"
        )
        self.publish(NODE_STATUS.format(node=self._node), status, retain=True)
