"""Of a node of another protocol it is known who it is and what to update, whatever else its birth has."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bus import Delivery
from orchestrator.events import NodeSaid
from orchestrator.service.inbox import Inbox
from schemas import PROTOCOL_VERSION
from schemas.foreign_birth import foreign_birth
from schemas.messages import encode
from schemas.topics import NODE_BIRTH
from tests.support.scripted_nodes import make_birth

LATER = PROTOCOL_VERSION + 1


def payload(**changed: object) -> bytes:
    return json.dumps(json.loads(encode(make_birth("new", protocol=LATER, package_version="7.0"))) | changed).encode()


@pytest.mark.parametrize("changed", [{"wings": 2}, {"v": 2}, {"memory_bytes": "plenty"}])
def test_a_birth_that_can_not_be_read_is_heard(changed: dict[str, object]) -> None:
    inbox = Inbox()
    said = payload(**changed)
    (heard,) = inbox.events(Delivery(NODE_BIRTH.format(node="new"), said, qos=1, retain=True))
    assert isinstance(heard, NodeSaid)
    assert (heard.message.node, heard.message.protocol, heard.message.package_version) == ("new", LATER, "7.0")
    assert inbox.rejected == 0


@pytest.mark.parametrize(
    "said",
    [
        payload(protocol=PROTOCOL_VERSION, wings=2), payload(node="a/b"), payload(incarnation=-1),
        payload(package_version=7), payload(type="node.status"), payload(protocol="2"), b"[]", b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_says_no_other_protocol_is_rejected(said: bytes) -> None:
    inbox = Inbox()
    assert foreign_birth(said) is None
    assert inbox.events(Delivery(NODE_BIRTH.format(node="new"), said, qos=1, retain=True)) == ()
    assert inbox.rejected == 1


@given(st.binary(max_size=200))
def test_bytes_are_no_birth(said: bytes) -> None:
    assert foreign_birth(said) is None
