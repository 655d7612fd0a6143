"""Malformed messages: what clients are told of those, on a topic that their sender reads (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from broker.bus import Delivery
from orchestrator.effects import Asker
from orchestrator.events import CommandUnreadable, Malformed
from orchestrator.service.responses import home, if_own
from schemas.errors import ContractError, MessageError
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, HOME_COMMAND, REQUEST_CANCEL, REQUEST_RENEW, REQUEST_SUBMIT

_REQUEST = re.compile(r"[0-9a-f]{16}")
_SUBMITTED = re.compile(rb'"request"\s*:\s*"([0-9a-f]{16})"')
"""In what may be no JSON; quotes inside a string of it have a backslash."""
_Message = TypeVar("_Message")


def same(message: _Message, place: Mapping[str, str]) -> _Message:
    """Check that a message says of its client and request what its topic says, and return it.

    Raises:
        MessageError: the message speaks for somebody else.
    """
    for name, said in place.items():
        if getattr(message, name, said) != said:
            raise MessageError(f"{name}: is not that of the topic, {said}")
    return message


def malformed(delivery: Delivery, error: ContractError) -> Sequence[Malformed | CommandUnreadable]:
    """The event behind a client's message that breaks the contract; none for other topics."""
    if (place := CONTROL_SUBMIT.match(delivery.topic)) and isinstance(error, MessageError):
        return (CommandUnreadable(Asker(**place, response=if_own(delivery, place["client"], CONTROL_REPLY)), error),)
    if (place := HOME_COMMAND.match(delivery.topic)) and isinstance(error, MessageError):
        return (CommandUnreadable(home(place), error),)
    for row in (REQUEST_SUBMIT, REQUEST_CANCEL, REQUEST_RENEW):
        if place := row.match(delivery.topic):
            said = _SUBMITTED.search(delivery.payload)
            request = place.get("request") or (said[1].decode() if said else "")
            known = request if _REQUEST.fullmatch(request) else None
            return (Malformed(place["client"], known, str(error), if_own(delivery, place["client"])),)
    return ()
