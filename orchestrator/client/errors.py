"""Errors between a client and the orchestrator."""

from __future__ import annotations

from collections.abc import Sequence

from broker.errors import IS_HOST_ON
from orchestrator.errors import OrchestratorError
from schemas.registry import MAX_MESSAGE_BYTES


class ClientError(OrchestratorError):
    """Base of what goes wrong between a client and the orchestrator."""


def start_one(broker: str) -> str:
    """What to do where nobody answers on a broker."""
    if broker.startswith("mqtts://"):
        return "start it on the fleet's host: linguabus serve --with-broker"
    return f"start one with 'linguabus serve --broker {broker}'"


def find_broker(broker: str) -> str:
    """What to do where a broker is gone."""
    return IS_HOST_ON if broker.startswith("mqtts://") else "start it there again"


class NoOrchestrator(ClientError):
    """Nobody answers control requests on this broker."""

    def __init__(self, broker: str) -> None:
        super().__init__(f"no orchestrator answers on {broker}: {start_one(broker)}")


class ControlRefused(ClientError):
    """The orchestrator can't do what it was told; the message says why."""


class AnswerFailed(ClientError):
    """There is no (complete) answer; ``code`` is `StreamError`'s."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class AnswerIncomplete(ClientError):
    """Pieces of the answer were lost on the way, or the orchestrator vanished while it answered."""


class OtherModel(ClientError):
    """Another model answers than the one that was asked."""

    def __init__(self, wanted: str, serving: str) -> None:
        super().__init__(f"the model is {serving} by now, no longer {wanted}: ask again")


class QuestionTooLong(ClientError):
    """A question makes a longer message than the broker passes on, or than any may be."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        if limit_bytes >= MAX_MESSAGE_BYTES:
            text = f"the question makes a message of {size_bytes:,} bytes, and {limit_bytes:,} are allowed: shorten it"
        else:
            text = (
                f"the question makes a message of {size_bytes:,} bytes, and the broker passes on {limit_bytes:,} bytes"
                " at most: shorten it, or raise the broker's limit (Mosquitto: max_packet_size, message_size_limit)"
            )
        super().__init__(text)


class NodeKeepsLayers(ClientError):
    """A drained node's layers can go nowhere."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node} keeps its layers until others can hold them: {reason} (to forget about it: --undo)")


class NodeStillHolds(ClientError):
    """A drained node has not given up its layers in time."""

    def __init__(self, node: str, pipelines: Sequence[str], waited_s: float) -> None:
        super().__init__(
            f"{node} still holds layers of {', '.join(pipelines)} after {waited_s:g} s; it is drained all the same:"
            " see linguabus top"
        )
