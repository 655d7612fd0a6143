"""Where answers may go: to topics of their asker, whatever a message or its properties say."""

from __future__ import annotations

import pytest

from broker.bus import NO_PROPERTIES, Delivery, Properties
from broker.errors import PayloadTooLarge
from orchestrator.events import Commanded, CommandUnreadable, Malformed, Submitted
from orchestrator.service.inbox import Inbox
from orchestrator.service.responses import instead_of, with_properties
from schemas.errors import MessageError
from schemas.limits import MAX_CORRELATION_BYTES
from schemas.messages import (
    DrainNode,
    OperatorRefusal,
    RequestAnswer,
    ResponseTo,
    ShowNodes,
    StatusReply,
    StreamError,
    StreamText,
    UseModel,
    encode,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, HOME_COMMAND, HOME_REPLY, REQUEST_SUBMIT, RESPONSE
from tests.support.scripted_nodes import make_submit

OWN = RESPONSE.format(client="cli", label="1")
PLACE = {"client": "cli", "request": "0" * 15 + "1"}
REPLY = CONTROL_REPLY.format(**PLACE)
OTHERS = [
    RESPONSE.format(client="other", label="1"),
    "linguabus/v1/plan/main",
    "linguabus/v1/node/phone/command",
    "linguabus/v1/request/cli/0000000000000001/stream",
    CONTROL_REPLY.format(client="other", request="1"),
    "homeassistant/device/x/config",
    OWN + "/more",
    "#",
]


def asked(topic: str, correlation: bytes = b"") -> Properties:
    return Properties(response_topic=topic, correlation=correlation)


def submitted(properties: Properties, payload: bytes | None = None) -> object:
    message = encode(make_submit()) if payload is None else payload
    topic = REQUEST_SUBMIT.format(client="cli")
    (event,) = Inbox().events(Delivery(topic, message, 1, False, properties))
    return event


def commanded(properties: Properties, payload: bytes | None = None) -> object:
    message = encode(ShowNodes()) if payload is None else payload
    (event,) = Inbox().events(Delivery(CONTROL_SUBMIT.format(**PLACE), message, 1, False, properties))
    return event


def test_a_question_is_answered_where_its_properties_say() -> None:
    event = submitted(Properties(OWN, b"\0\xff", 30))
    assert isinstance(event, Submitted)
    assert event.request.response == ResponseTo(topic=OWN, correlation="00ff")
    assert event.request.expires_s == 30.0


def test_without_properties_as_over_mqtt_3_it_is_the_message_that_says_it() -> None:
    submit = make_submit(response=ResponseTo(topic=OWN), expires_s=7.0)
    assert with_properties(submit, NO_PROPERTIES) is submit
    assert with_properties(submit, asked(OWN + "2")).response == ResponseTo(topic=OWN + "2")


@pytest.mark.parametrize("topic", [*OTHERS, REPLY])
def test_a_question_is_answered_on_its_clients_own_topics_alone(topic: str) -> None:
    event = submitted(asked(topic))
    assert isinstance(event, Malformed)
    assert "response" in event.reason
    assert (event.request, event.response) == ("0" * 15 + "1", None)
    if "#" not in topic:
        with pytest.raises(MessageError, match=r"none of cli's own, such as linguabus/v1/response/cli/\{label\}"):
            with_properties(make_submit(response=ResponseTo(topic=topic)), NO_PROPERTIES)


@pytest.mark.parametrize("topic", [OWN, REPLY])
def test_a_command_is_answered_where_its_operator_wants(topic: str) -> None:
    event = commanded(asked(topic, b"7"))
    assert isinstance(event, Commanded)
    assert event.asker.response == ResponseTo(topic=topic, correlation="37")


@pytest.mark.parametrize("topic", OTHERS)
def test_a_command_that_would_be_answered_elsewhere_is_refused(topic: str) -> None:
    event = commanded(asked(topic))
    assert isinstance(event, CommandUnreadable)
    assert event.asker.response is None


def test_what_can_not_be_read_is_answered_there_too() -> None:
    malformed, unreadable = submitted(asked(OWN, b"1"), b"not JSON"), commanded(asked(OWN, b"1"), b"not JSON")
    assert isinstance(malformed, Malformed)
    assert isinstance(unreadable, CommandUnreadable)
    assert malformed.response == unreadable.asker.response == ResponseTo(topic=OWN, correlation="31")


def test_no_more_comes_back_than_anybody_needs() -> None:
    assert isinstance(submitted(asked(OWN, b"x" * MAX_CORRELATION_BYTES)), Submitted)
    assert isinstance(submitted(asked(OWN, b"x" * (MAX_CORRELATION_BYTES + 1))), Malformed)


def test_a_home_drains_and_chooses_and_does_nothing_else() -> None:
    topic = HOME_COMMAND.format(pipeline="main")
    for command in (DrainNode(node="a"), UseModel(model="m")):
        (event,) = Inbox().events(Delivery(topic, encode(command), 1, False))
        assert isinstance(event, Commanded)
        assert event.asker.response == ResponseTo(topic=HOME_REPLY.format(pipeline="main"))
    (event,) = Inbox().events(Delivery(topic, encode(ShowNodes()), 1, False))
    assert isinstance(event, CommandUnreadable)
    assert Inbox().events(Delivery(topic, encode(DrainNode(node="a")), 1, True)) == ()


def test_an_answer_that_can_not_be_sent_is_not_left_out_without_a_word() -> None:
    too_long = PayloadTooLarge(2_000_000, 1_000)
    answer = RequestAnswer(
        request="0" * 16, text="long", finish_reason="stop", prompt_tokens=1, completion_tokens=1, ttft_s=1, total_s=1
    )
    assert isinstance(instead_of(answer, too_long), StreamError)
    assert isinstance(instead_of(object.__new__(StatusReply), too_long), OperatorRefusal)
    assert instead_of(OperatorRefusal(reason="no"), too_long) is None
    piece = StreamText(request="0" * 16, first_token=0, first_character=0, text="", token_ids=())
    assert instead_of(piece, too_long) is None
