"""Commands that were given to the orchestrator and are not answered yet. For one thread."""

from __future__ import annotations

import secrets
from typing import Any, TypeVar

from broker.bus import Bus, Refused
from orchestrator.client.errors import ControlRefused
from schemas.messages import OperatorRefusal, OperatorRequest, decode, encode
from schemas.topics import CONTROL_SUBMIT

Reply = TypeVar("Reply")

CONTROL_TIMEOUT_S = 3.0
SOLVE_TIMEOUT_S = 60.0
REPLAN_TIMEOUT_S = 600.0
"""Nodes may have to fetch their parts before a new plan is in force."""


class ControlCalls:
    """The open commands of one client, by request."""

    def __init__(self, bus: Bus, *, name: str) -> None:
        """``name`` is the client's in topics."""
        self._bus = bus
        self._name = name
        self._replies: dict[str, bytes | ControlRefused | None] = {}
        """From the orchestrator, or the broker's refusal; None until there is one."""

    def begin(self, command: OperatorRequest) -> str:
        """Give a command; returns the request to `take` its answer by.

        Raises:
            MessageError: the command can't be sent.
        """
        request = secrets.token_hex(8)
        self._replies[request] = None
        try:
            self._bus.publish(CONTROL_SUBMIT.format(client=self._name, request=request), encode(command), qos=1)
        except BaseException:
            self.forget(request)
            raise
        return request

    def forget(self, request: str) -> None:
        """Wait for this answer no longer."""
        self._replies.pop(request, None)

    def heard(self, request: str, payload: bytes) -> None:
        """Take in an answer; one that nobody waits for is for another process of the same name."""
        if request in self._replies:
            self._replies[request] = payload

    def refused(self, request: str, refused: Refused) -> None:
        """Take in that the broker did not take a command."""
        if request in self._replies:  # else nobody waits for it any more
            self._replies[request] = ControlRefused(f"the broker refuses this to {self._name}: {refused.reason}")

    def is_answered(self, request: str) -> bool:
        """Is there something to `take`?"""
        return self._replies.get(request) is not None

    def take(self, request: str, *answers: type[Reply]) -> Reply:
        """The answer of a command that is answered, which is of one of the types ``answers``.

        Raises:
            ControlRefused: the orchestrator says no, or the broker does.
            MessageError: the answer is none of the contract.
        """
        payload = self._replies.pop(request)
        assert payload is not None, "it is not answered yet"
        if isinstance(payload, ControlRefused):
            raise payload
        reply: Any = decode(payload, *answers, OperatorRefusal)
        if isinstance(reply, OperatorRefusal):
            raise ControlRefused(reply.reason)
        answer: Reply = reply
        return answer
