"""Errors of the bus. Each message is one line that says what to do next."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import LinguabusError

HOW_TO_JOIN = (
    "join the fleet by the line that 'linguabus invite NAME' prints on its host, or say where to connect with --broker"
)
"""For who has no credential."""
IS_HOST_ON = "is the fleet's host on, and does linguabus run there?"
"""For a fleet's member that does not reach its broker."""


class BusError(LinguabusError):
    """Base of everything this package raises on purpose."""


class BadBrokerUrl(BusError):
    """The broker's address is not `mqtt://[user:password@]host[:port]` or `mqtts://...`."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"broker address {url!r}: {reason}; write mqtt://host:1883 or mqtts://host:8883")
        self.url = url
        self.reason = reason


class CredentialUnusable(BusError):
    """The file with a member's credential can't be read, or is damaged."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} can't be used: {reason}; remove it, and join the fleet again")


class ConfigUnusable(BusError):
    """The configuration file can't be read, or has what no command knows."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


class JoiningFailed(BusError):
    """A device did not become a member of a fleet."""


class BrokerUnreachable(BusError):
    """No MQTT broker answered at this address within the time-out."""

    def __init__(self, address: str, reason: str, remedy: str = "start one there or pass another address") -> None:
        super().__init__(f"no MQTT broker at {address}: {reason}; {remedy}")
        self.address = address
        self.reason = reason


class BrokerRefused(BusError):
    """The broker answered CONNECT with a refusal (credentials, rights, client id, ...)."""

    def __init__(self, address: str, reason: str, remedy: str = "check user name, password and rights") -> None:
        super().__init__(f"broker {address} refused the connection: {reason}; {remedy}")
        self.address = address
        self.reason = reason


class MemberRefused(BrokerRefused):
    """A fleet's broker does not take the key of who was a member: it was revoked, or has another key by now."""

    def __init__(self, address: str, reason: str, member: str) -> None:
        super().__init__(
            address,
            reason,
            f"{member} is no member any more, or has another key: ask for an invitation (linguabus invite {member}, on"
            " the fleet's host), then join by it",
        )


class LeavingFailed(BusError):
    """A member could not tell its fleet's host that it leaves."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"the fleet's host does not know that {name} has left ({reason}): run 'linguabus revoke {name}' there"
        )


class SubscribeRefused(BusError):
    """The broker refused a subscription. `poll` raises it; events received before it are kept for the next `poll`."""

    def __init__(self, patterns: Iterable[str], reason: str) -> None:
        self.patterns = tuple(patterns)
        self.reason = reason
        super().__init__(
            f"broker refused to subscribe {', '.join(self.patterns)}: {reason}; check this client's rights"
        )


class PayloadTooLarge(BusError):
    """A payload is larger than this bus or its broker takes. Nothing was sent."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"payload of {size_bytes:,} bytes is over the limit of {limit_bytes:,}; send it in chunks")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class QueueFull(BusError):
    """Too many QoS 1 messages wait for their PUBACK. Nothing was queued."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} QoS 1 messages already wait for the broker; wait for flush() or publish less")
        self.limit = limit


class BadTopic(BusError):
    """A topic to publish on has a wildcard or is empty, or a pattern to subscribe to is malformed."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"topic {topic!r}: {reason}")
        self.topic = topic
        self.reason = reason


class BusClosed(BusError):
    """The bus was used before `connect()` or after `close()`."""

    def __init__(self, action: str) -> None:
        super().__init__(f"cannot {action}: the bus is not open; call connect() first")


class BrokerNotFound(BusError):
    """No broker program of the wanted kind is installed."""

    def __init__(self, kind: str, hint: str) -> None:
        super().__init__(f"no {kind} broker found; {hint}")
        self.kind = kind


class BrokerDidNotStart(BusError):
    """A broker process was started and did not accept connections; carries the last line of its log."""

    def __init__(self, kind: str, last_log_line: str) -> None:
        super().__init__(f"the {kind} broker did not start: {last_log_line or 'it said nothing'}")
        self.kind = kind
        self.last_log_line = last_log_line


class BrokerEnded(BusError):
    """A broker process has ended again and again, and is not started any more."""
