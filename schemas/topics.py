"""The topic table: every topic of the bus, what travels on it, its QoS and whether it is retained.

Sender and receiver are part of a topic, so that a broker can enforce who speaks and who reads.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import get_args

from schemas import messages as m
from schemas import names
from schemas.errors import TopicError

PREFIX = "linguabus/v1"


@dataclass(frozen=True)
class Topic:
    """One row of the table. ``messages`` is empty where binary frames travel."""

    pattern: str
    messages: tuple[type, ...]
    qos: int
    retain: bool

    @functools.cached_property
    def _parts(self) -> list[str]:
        return f"{PREFIX}/{self.pattern}".split("/")

    def format(self, **values: object) -> str:
        """The topic with every ``{placeholder}`` filled in.

        Raises:
            TopicError: a value that is not a name (wildcards and slashes above all).
        """
        return "/".join(self._fill(part, values) for part in self._parts)

    def filter(self, **values: object) -> str:
        """The subscription filter: placeholders not given become ``+``."""
        return self._filled(values, "+")

    def shown(self, **values: object) -> str:
        """The topic for people: placeholders not given stay."""
        return self._filled(values, None)

    def _filled(self, values: dict[str, object], instead: str | None) -> str:
        """``instead``: what stands for each placeholder that is not given; None: itself."""
        return "/".join(
            (instead or part) if part.startswith("{") and part[1:-1] not in values else self._fill(part, values)
            for part in self._parts
        )

    @functools.cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(
            "/".join(
                f"(?P<{part[1:-1]}>{names.LIMITED_PATTERN})" if part.startswith("{") else re.escape(part)
                for part in self._parts
            )
        )

    def match(self, topic: str) -> dict[str, str] | None:
        """The placeholders' values, or None where ``topic`` is of another row or a value is not a name."""
        found = self._regex.fullmatch(topic)
        return found.groupdict() if found else None

    @property
    def longest_bytes(self) -> int:
        """Length of the topic with the longest names."""
        lengths = [names.MAX_LENGTH if part.startswith("{") else len(part) for part in self._parts]
        return sum(lengths) + len(lengths) - 1

    @staticmethod
    def _fill(part: str, values: dict[str, object]) -> str:
        if not part.startswith("{"):
            return part
        value = str(values[part[1:-1]])
        if not names.is_name(value):
            raise TopicError(f"{value!r} can't be part of a topic: {names.RULE}")
        return value


NODE_BIRTH = Topic("node/{node}/birth", (m.NodeBirth,), qos=1, retain=True)
NODE_STATUS = Topic("node/{node}/status", (m.NodeStatus,), qos=1, retain=True)
NODE_HEARTBEAT = Topic("node/{node}/heartbeat", (m.Heartbeat,), qos=0, retain=False)
NODE_ECHO = Topic("node/{node}/echo", (), qos=0, retain=False)
"""A node publishes to itself here to measure a hop through the broker."""
NODE_COMMAND = Topic(
    "node/{node}/command",
    (
        m.RegisterAgain,
        m.RefuseNode,
        m.ProbeNode,
        m.PrepareSegment,
        m.ReleaseSegment,
        m.OpenRequest,
        m.CloseRequest,
        m.KeepRequests,
        m.ResendTokens,
        m.AllowTokens,
        m.CopyKv,
        m.HoldRequests,
        m.GoOn,
        m.FinishKv,
        m.KeepBlobs,
    ),
    qos=1,
    retain=False,
)
NODE_REPLY = Topic(
    "node/{node}/reply",
    (
        m.PrepareProgress,
        m.SegmentReady,
        m.SegmentFailed,
        m.RequestClosed,
        m.RequestFailed,
        m.MasksWanted,
        m.NodeProfile,
        m.KvCopied,
        m.RequestsHeld,
    ),
    qos=1,
    retain=False,
)
PLAN = Topic("plan/{pipeline}", (m.Plan,), qos=1, retain=True)
SEGMENT = Topic("segment/{pipeline}/{epoch}/{stage}/from/{sender}/to/{receiver}", (), qos=0, retain=False)
TOKEN = Topic("token/{pipeline}/{epoch}/from/{sender}/to/{receiver}", (), qos=0, retain=False)
"""To the node of stage 0; the orchestrator reads it too."""
REQUEST_SUBMIT = Topic("request/submit/{client}", (m.SubmitRequest,), qos=1, retain=False)
REQUEST_STREAM = Topic(
    "request/{client}/{request}/stream", (m.StreamText, m.StreamStatus, m.StreamEnd, m.StreamError), qos=1, retain=False
)
REQUEST_CANCEL = Topic("request/{client}/{request}/cancel", (m.CancelRequest,), qos=1, retain=False)
REQUEST_RENEW = Topic("request/{client}/{request}/renew", (m.RenewRequest,), qos=1, retain=False)
CLIENT_WILL = Topic("client/{client}/will", (m.ClientWill,), qos=1, retain=False)
CONTROL_SUBMIT = Topic("control/{client}/{request}/submit", get_args(m.OperatorRequest), qos=1, retain=False)
"""Messages here and on the next have no member for who asks and in which request: both are in the topic, so that
whoever sends what can't be read is answered too."""
CONTROL_REPLY = Topic("control/{client}/{request}/reply", get_args(m.OperatorReply), qos=1, retain=False)
RESPONSE = Topic(
    "response/{client}/{label}",
    (m.RequestAnswer, m.StreamError, *get_args(m.OperatorReply)),
    qos=1,
    retain=False,
)
"""What one has asked with a response topic, in one message each; its reader chooses the label."""
ORCHESTRATOR_STATUS = Topic("orchestrator/{pipeline}/status", (m.OrchestratorStatus,), qos=1, retain=True)
OPERATOR_WISHES = Topic("orchestrator/{pipeline}/wishes", (m.OperatorWishes,), qos=1, retain=True)
DOOR = Topic("orchestrator/{pipeline}/door", (m.DoorState,), qos=1, retain=True)
HOME_FLEET = Topic("home/{pipeline}/state", (m.HomeFleet,), qos=1, retain=True)
HOME_NODE = Topic("home/{pipeline}/node/{node}/state", (m.HomeNode,), qos=1, retain=True)
HOME_COMMAND = Topic("home/{pipeline}/command", (m.DrainNode, m.UseModel), qos=1, retain=False)
"""What a home-automation system may ask for; answered on the next. Whoever has the right speaks for the home."""
HOME_REPLY = Topic("home/{pipeline}/reply", (m.DrainReply, m.UseModelReply, m.OperatorRefusal), qos=1, retain=False)
EVENT = Topic("event/{pipeline}", (m.FleetEvent,), qos=0, retain=False)

TOPICS = (
    NODE_BIRTH,
    NODE_STATUS,
    NODE_HEARTBEAT,
    NODE_ECHO,
    NODE_COMMAND,
    NODE_REPLY,
    PLAN,
    SEGMENT,
    TOKEN,
    REQUEST_SUBMIT,
    REQUEST_STREAM,
    REQUEST_CANCEL,
    REQUEST_RENEW,
    CLIENT_WILL,
    CONTROL_SUBMIT,
    CONTROL_REPLY,
    RESPONSE,
    ORCHESTRATOR_STATUS,
    OPERATOR_WISHES,
    DOOR,
    HOME_FLEET,
    HOME_NODE,
    HOME_COMMAND,
    HOME_REPLY,
    EVENT,
)
LONGEST_TOPIC_BYTES = max(topic.longest_bytes for topic in TOPICS)
