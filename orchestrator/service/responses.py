"""Responses: where somebody wants an answer, with MQTT 5's properties or in the message itself (pure).

An answer goes to topics of its own asker alone: else anybody could have the orchestrator, which may publish everything,
publish in another's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import get_args

from broker.bus import Delivery, Properties
from broker.errors import PayloadTooLarge
from orchestrator.deployment.message_fit import RAISE_IT
from orchestrator.effects import Asker
from orchestrator.pipelines.readers import NO_REQUEST
from schemas.errors import MessageError
from schemas.limits import MAX_CORRELATION_BYTES
from schemas.messages import OperatorRefusal, OperatorReply, RequestAnswer, ResponseTo, StreamError, SubmitRequest
from schemas.topics import HOME_REPLY, RESPONSE, Topic


def wanted(properties: Properties, client: str, *others: Topic) -> ResponseTo | None:
    """Where a message's sender wants its answer; None where it does not say.

    Args:
        client: the sender.
        others: what may be named besides its own `RESPONSE` topics, in its own name as well.

    Raises:
        MessageError: that is not its own, or too much is to come back.
    """
    if not properties.response_topic:
        return None
    if len(properties.correlation) > MAX_CORRELATION_BYTES:
        size = len(properties.correlation)
        raise MessageError(f"correlation data of {size} bytes, allowed are {MAX_CORRELATION_BYTES}")
    response = ResponseTo(topic=properties.response_topic, correlation=properties.correlation.hex())
    return _own(response, client, *others)


def _own(response: ResponseTo, client: str, *others: Topic) -> ResponseTo:
    for row in (RESPONSE, *others):
        if (place := row.match(response.topic)) and place["client"] == client:
            return response
    names = " or ".join(row.shown(client=client) for row in (RESPONSE, *others))
    raise MessageError(f"response topic: is none of {client}'s own, such as {names}")


def with_properties(submit: SubmitRequest, properties: Properties) -> SubmitRequest:
    """A question with what its properties say of the answer, which goes before what itself says.

    Raises:
        MessageError: the answer is to go to somebody else.
    """
    response = wanted(properties, submit.client) or (submit.response and _own(submit.response, submit.client))
    expires_s = submit.expires_s if properties.expires_s is None else float(properties.expires_s)
    if (response, expires_s) == (submit.response, submit.expires_s):
        return submit
    return replace(submit, response=response, expires_s=expires_s)


def if_own(delivery: Delivery, client: str, *others: Topic) -> ResponseTo | None:
    """Where a message that can't be read is answered besides the usual topic."""
    with suppress(MessageError):
        return wanted(delivery.properties, client, *others)
    return None


def home(place: Mapping[str, str]) -> Asker:
    """Who commands for a home; the answer goes to all that show it there."""
    return Asker("home", NO_REQUEST, ResponseTo(topic=HOME_REPLY.format(pipeline=place["pipeline"])))


def instead_of(message: object, error: Exception) -> object | None:
    """What is said in place of an answer that can't be sent; None where nobody waits for it."""
    if isinstance(message, RequestAnswer):
        return StreamError(request=message.request, code="failed", reason=_why_not_answered(error))
    if isinstance(message, get_args(OperatorReply)) and not isinstance(message, OperatorRefusal):
        return OperatorRefusal(reason=_why_not_answered(error))
    return None


def _why_not_answered(error: Exception) -> str:
    if not isinstance(error, PayloadTooLarge):
        return f"the answer can't be sent: {error}"
    sizes = f"{error.size_bytes:,} bytes, and the broker passes on {error.limit_bytes:,} bytes at most"
    return f"the answer takes a message of {sizes}: {RAISE_IT}"
