"""The topic table: values go in and come out alike, and no value reaches outside its own row."""

from __future__ import annotations

import itertools
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import contract, messages, parts, topics
from schemas.errors import MessageError, TopicError
from schemas.messages import MESSAGES, Epoch
from schemas.topics import PREFIX, TOPICS, Topic
from tests.support.strategies import examples, instances, names

EVERY_TOPIC = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.pattern)


def placeholders(topic: Topic) -> list[str]:
    return re.findall(r"{(\w+)}", topic.pattern)


def filter_matches(subscription: str, topic: str) -> bool:
    """What MQTT says about a filter without ``#``."""
    pairs = itertools.zip_longest(subscription.split("/"), topic.split("/"))
    return all(part in ("+", level) for part, level in pairs)


@EVERY_TOPIC
@given(data=st.data())
@examples(15)
def test_round_trip(topic: Topic, data: st.DataObject) -> None:
    values = {name: data.draw(names()) for name in placeholders(topic)}
    text = topic.format(**values)
    assert text.startswith("linguabus/v1/")
    assert topic.match(text) == values
    assert [other for other in TOPICS if other.match(text) is not None] == [topic], "a topic of two rows"

    given_values = {name: values[name] for name in data.draw(st.sets(st.sampled_from(placeholders(topic))))}
    subscription = topic.filter(**given_values)
    assert filter_matches(subscription, text)
    assert subscription.count("+") == len(values) - len(given_values)


@EVERY_TOPIC
@pytest.mark.parametrize(
    "value", ["+", "#", "a/b", "", "a+", "a#", "$SYS", " ", "a b", "a\n", "é", "\0", ".", "..", "-a", "_a", "a" * 65]
)
def test_what_is_not_a_name_is_refused(topic: Topic, value: str) -> None:
    for name in placeholders(topic):
        values = dict.fromkeys(placeholders(topic), "a") | {name: value}
        with pytest.raises(TopicError):
            topic.format(**values)
        with pytest.raises(TopicError):
            topic.filter(**{name: value})
        text = f"{PREFIX}/{topic.pattern}".format(**values)
        assert [other.pattern for other in TOPICS if other.match(text) is not None] == [], text


@EVERY_TOPIC
@given(text=st.text(alphabet="ab/+#$.\n{}", max_size=12), data=st.data())
@examples(15)
def test_other_topics_do_not_match(topic: Topic, text: str, data: st.DataObject) -> None:
    full = topic.format(**dict.fromkeys(placeholders(topic), "a"))
    parts = full.split("/")
    place = data.draw(st.integers(0, len(parts) - 1))
    changed = "/".join([*parts[:place], text, *parts[place + 1 :]])
    for other in (text, f"{full}/{text}", f"{text}/{full}", changed):
        values = topic.match(other)
        assert values is None or topic.format(**values) == other


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(TOPICS, 2)), ids=lambda t: t.pattern)
def test_rows_are_disjoint(one: Topic, other: Topic) -> None:
    """Rows of equal length differ in a level that is fixed in both, so that no values can make them meet."""
    a, b = one.pattern.split("/"), other.pattern.split("/")
    assert len(a) != len(b) or any(x != y for x, y in zip(a, b, strict=True) if not (x + y).count("{"))


def test_topics_on_the_wire() -> None:
    """Spelt out: parts of other versions and access rules of brokers depend on them."""
    values = {"node": "pi", "pipeline": "main", "epoch": Epoch(generation=7, counter=2), "stage": 1, "sender": "pi",
              "receiver": "laptop", "client": "cli-1", "request": "5f0c3a9e81d7b264",
              "label": "1"}  # fmt: skip
    assert [topic.format(**values).removeprefix("linguabus/v1/") for topic in TOPICS] == [
        "node/pi/birth",
        "node/pi/status",
        "node/pi/heartbeat",
        "node/pi/echo",
        "node/pi/command",
        "node/pi/reply",
        "plan/main",
        "segment/main/7-2/1/from/pi/to/laptop",
        "token/main/7-2/from/pi/to/laptop",
        "request/submit/cli-1",
        "request/cli-1/5f0c3a9e81d7b264/stream",
        "request/cli-1/5f0c3a9e81d7b264/cancel",
        "request/cli-1/5f0c3a9e81d7b264/renew",
        "client/cli-1/will",
        "control/cli-1/5f0c3a9e81d7b264/submit",
        "control/cli-1/5f0c3a9e81d7b264/reply",
        "response/cli-1/1",
        "orchestrator/main/status",
        "orchestrator/main/wishes",
        "orchestrator/main/door",
        "home/main/state",
        "home/main/node/pi/state",
        "home/main/command",
        "home/main/reply",
        "event/main",
    ]


def test_the_table_lists_every_row_once() -> None:
    assert set(TOPICS) == {value for value in vars(topics).values() if isinstance(value, Topic)}
    assert len({topic.pattern for topic in TOPICS}) == len(TOPICS)
    for topic in TOPICS:
        assert len(set(placeholders(topic))) == len(placeholders(topic))
        assert topic.qos in (0, 1)


def test_every_message_travels_on_one_topic() -> None:
    again = (topics.RESPONSE, topics.HOME_COMMAND, topics.HOME_REPLY)
    """What they carry is on a topic of its own as well, but for a whole answer."""
    carried = [cls for topic in TOPICS if topic not in again for cls in topic.messages] + [messages.RequestAnswer]
    assert {cls for topic in again for cls in topic.messages} <= set(carried)
    assert len(carried) == len(set(carried))
    assert set(carried) == set(MESSAGES.values())


def test_what_is_retained_and_what_must_arrive() -> None:
    assert {t.pattern for t in TOPICS if t.retain} == {
        "node/{node}/birth",
        "node/{node}/status",
        "plan/{pipeline}",
        "orchestrator/{pipeline}/status",
        "orchestrator/{pipeline}/wishes",
        "orchestrator/{pipeline}/door",
        "home/{pipeline}/state",
        "home/{pipeline}/node/{node}/state",
    }
    assert all(t.qos == 1 for t in TOPICS if t.messages and t not in (topics.NODE_HEARTBEAT, topics.EVENT))


@given(epoch=instances(Epoch), request=st.integers(0, 2**64 - 1), stage=st.integers(0, 100_000))
@examples(30)
def test_epochs_requests_and_stages_fit_into_topics(epoch: Epoch, request: int, stage: int) -> None:
    text = topics.SEGMENT.format(pipeline="main", epoch=epoch, stage=stage, sender="a", receiver="b")
    assert (topics.SEGMENT.match(text) or {})["epoch"] == str(epoch)
    topics.REQUEST_STREAM.format(client="cli-1", request=f"{request:016x}")


@given(text=names() | st.text(max_size=70) | st.text(alphabet="a.-_/+\n", max_size=3))
@examples(200)
def test_names_in_messages_are_the_names_in_topics(text: str) -> None:
    limit = get_args(parts.Name)[1]
    assert isinstance(limit, contract.Text)
    document = {"pipeline": text, "epoch": {"generation": 0, "counter": 0}}
    try:
        contract.load(messages.ReleaseSegment, document)
        named = True
    except MessageError:
        named = False
    try:
        topics.PLAN.format(pipeline=text)
        addressed = True
    except TopicError:
        addressed = False
    assert named is addressed
