"""Topic matching against paho's own, and broker addresses."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from broker.address import BrokerAddress, parse_broker_url
from broker.errors import BadBrokerUrl, BadTopic
from broker.topic_filters import check_pattern, check_topic, matches

LEVELS = st.sampled_from(["", "a", "b", "$a", "+", "#"])


@given(st.lists(LEVELS, min_size=1, max_size=5), st.lists(LEVELS, min_size=1, max_size=5))
@example(["#"], ["$a", "b"])
@example(["+", "b"], ["$a", "b"])
@example(["$a", "#"], ["$a"])
def test_matching_agrees_with_paho(pattern_levels: list[str], topic_levels: list[str]) -> None:
    pattern, topic = "/".join(pattern_levels), "/".join(topic_levels)
    try:
        check_pattern(pattern)
        check_topic(topic)
    except BadTopic:
        return
    assert matches(pattern, topic) == topic_matches_sub(pattern, topic)


@pytest.mark.parametrize("topic", ["a", "/", "a//b", "$SYS/x", "ä/ü", "x" * 65_535])
def test_good_topics(topic: str) -> None:
    check_topic(topic)
    check_pattern(topic)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0", "ü" * 32_768])
def test_bad_topics(topic: str) -> None:
    with pytest.raises(BadTopic):
        check_topic(topic)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://localhost", BrokerAddress("localhost", 1883)),
        ("mqtt://10.0.0.7:2883/", BrokerAddress("10.0.0.7", 2883)),
        ("mqtts://broker.example", BrokerAddress("broker.example", 8883, tls=True)),
        ("mqtt://[::1]:1883", BrokerAddress("::1", 1883)),
        ("mqtt://anna@host", BrokerAddress("host", 1883, username="anna")),
        ("mqtt://an%40na:p%3Aw%2F@host:1", BrokerAddress("host", 1, username="an@na", password="p:w/")),
    ],
)
def test_broker_urls(url: str, expected: BrokerAddress) -> None:
    parsed = parse_broker_url(url)
    assert parsed == expected
    bare = parse_broker_url(str(parsed))
    assert (bare.host, bare.port, bare.tls) == (expected.host, expected.port, expected.tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:1883",
        "http://host",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:port",
        "mqtt://host:70000",
        "mqtt://host:0",
        "mqtt://host/path",
        "mqtt://host?x=1",
        "mqtt://ho st",
        "mqtt://[::1",
    ],
)
def test_bad_broker_urls_say_what_to_write(url: str) -> None:
    with pytest.raises(BadBrokerUrl, match="write mqtt://host:1883") as bad:
        parse_broker_url(url)
    assert "\n" not in str(bad.value)


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(BadBrokerUrl) as bad:
        parse_broker_url("mqtt://anna:s3cret@host:port")
    assert "s3cret" not in str(bad.value)
    assert "s3cret" not in repr(parse_broker_url("mqtt://anna:s3cret@host"))
