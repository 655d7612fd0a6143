"""The properties of MQTT 5, as paho packs them and as any other client may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bus import NO_PROPERTIES, Properties
from broker.message_properties import packed, unpacked, variable_length
from tests.support.strategies import examples

PROPERTIES = st.builds(
    Properties,
    response_topic=st.from_regex(r"[a-z/]{0,40}", fullmatch=True),
    correlation=st.binary(max_size=300),
    expires_s=st.none() | st.integers(0, 2**32 - 1),
)


@examples(50)
@given(properties=PROPERTIES)
def test_what_paho_packs_is_unpacked(properties: Properties) -> None:
    made = packed(properties)
    if made is None:
        assert properties == NO_PROPERTIES
        return
    data = made.pack()
    size, at = variable_length(data, 0)
    assert len(data) == at + size
    assert unpacked(data[at:]) == properties


def test_properties_that_the_bus_does_not_know_are_passed_over() -> None:
    known = b"\x08\0\x01r"
    others = b"\x01\x01\x03\0\x04text\x23\0\x07\x0b\x80\x01\x26\0\x01a\0\x02bc"
    assert unpacked(others + known + others) == Properties(response_topic="r")


@pytest.mark.parametrize("data", [b"\x07", b"\x08\0\x05a", b"\x02\0\0", b"\x26\0\x01a", b"\x08\0\x01\xff", b"\x0b\x80"])
def test_malformed_properties_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        unpacked(data)
