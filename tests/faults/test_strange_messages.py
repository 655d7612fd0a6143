"""What nobody sends, on every topic: refused with a named error and counted, or taken; no crash, no endless loop.

``make test-long`` tries a million.
"""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.bus import Delivery
from orchestrator.service.inbox import Inbox
from schemas.codec import (
    Dtype,
    Frame,
    Kind,
    KvRowsHeader,
    activation_payload_bytes,
    decode_frames,
    encode_frame,
    pack_kv_header,
    unpack_kv_header,
)
from schemas.errors import ContractError
from schemas.messages import Epoch, decode, encode, name_of
from schemas.topics import CONTROL_SUBMIT, NODE_BIRTH, ORCHESTRATOR_STATUS, PLAN, SEGMENT, TOKEN, TOPICS, Topic
from tests.faults.schedule import SHORT, Schedule
from tests.support.mutations import altered_frames, altered_json, damaged
from tests.support.repository import ROOT
from tests.support.simulated_fleet import SimulatedFleet

EXAMPLES = {
    name: [path.read_bytes() for path in paths]
    for name, paths in itertools.groupby(
        sorted((ROOT / "schemas" / "examples" / "good").glob("*.json")),
        lambda path: json.loads(path.read_bytes())["type"],
    )
}
ALL = [data for examples in EXAMPLES.values() for data in examples]
PLACE = {"node": "pi", "pipeline": "main", "epoch": "7-2", "stage": 1, "sender": "pi", "receiver": "laptop",
         "client": "cli-1", "request": "5f0c3a9e81d7b264", "label": "1"}  # fmt: skip
FRAMES = (SEGMENT, TOKEN)
OBEYED = (CONTROL_SUBMIT, NODE_BIRTH, ORCHESTRATOR_STATUS, PLAN)
FEW, MANY, TOGETHER = 4_000, 1_000_000, 50_000


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def frames() -> list[bytes]:
    """Messages of frames of every kind."""
    epoch, request = Epoch(generation=7, counter=2), 0x5F0C3A9E81D7B264
    header = pack_kv_header(KvRowsHeader(layer=3, part=1, heads=2, head_dim=4))
    made = [
        Frame(
            Kind.ACTIVATION,
            request,
            epoch,
            1,
            38,
            2,
            4,
            Dtype.FP16,
            1,
            bytes(activation_payload_bytes(Dtype.FP16, 2, 4)),
        ),
        Frame(
            Kind.ACTIVATION,
            request,
            epoch,
            1,
            38,
            1,
            4,
            Dtype.INT8,
            0,
            bytes(activation_payload_bytes(Dtype.INT8, 1, 4)),
        ),
        Frame(Kind.TOKENS, request, epoch, 1, 38, 3, 0, Dtype.INT32, 4, bytes(12)),
        Frame(Kind.TOKENS, request, epoch, 1, 38, 1, 3, Dtype.INT32, 0, bytes(20)),
        Frame(Kind.KV_ROWS, request, epoch, 0, 0, 2, 8, Dtype.FP32, 0, header + bytes(64)),
        Frame(Kind.REPLAY, request, epoch, 2, 40),
        Frame(Kind.KV_ACK, request, epoch, 0, 2),
    ]
    each = [bytes(encode_frame(frame)) for frame in made]
    return [*each, b"".join(each)]


def strange(topic: Topic, chance: random.Random) -> bytes:
    """A payload for a topic."""
    if topic in FRAMES:
        data = chance.choice(frames())
        return altered_frames(data, chance) if chance.random() < 0.6 else damaged(data, chance)
    own = [data for cls in topic.messages for data in EXAMPLES[name_of(cls)]] or [b"\0" * 6]
    data = chance.choice(own)
    if data[:1] != b"{" or chance.random() < 0.25:
        return damaged(data, chance)
    return altered_json(data, ALL, chance)


def try_messages(seed: int, count: int) -> tuple[int, int]:
    """Hand strange messages to everybody who decodes them; how many were refused, how many taken."""
    chance, inbox = random.Random(seed), Inbox()
    refused, taken, reasons = 0, 0, set[str]()
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        payload = strange(topic, chance)
        before = inbox.rejected
        inbox.events(Delivery(topic.format(**PLACE), payload, 1, retain=False))
        try:
            if topic in FRAMES:
                for frame in decode_frames(payload):
                    if frame.kind is Kind.KV_ROWS:
                        unpack_kv_header(frame)
            elif topic.messages:
                message = decode(payload, *topic.messages)
                assert decode(encode(message), *topic.messages) == message, "taken, but can't be passed on"
        except ContractError as error:
            reasons.add(str(error))
            refused += 1
        else:
            taken += 1
            assert inbox.rejected in (before, before + 1)
    assert inbox.rejected > 0
    assert all(reason.isprintable() and len(reason) < 1_000 for reason in reasons)
    return refused, taken


def test_a_few_on_every_topic() -> None:
    refused, taken = try_messages(0, FEW)
    assert min(refused, taken) > FEW // 10, (refused, taken)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, MANY // TOGETHER + 1))
def test_many_on_every_topic(seed: int) -> None:
    refused, taken = try_messages(seed, TOGETHER)
    assert refused + taken == TOGETHER


@pytest.mark.parametrize(
    "seed", [*range(1, 5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 205))]
)
def test_strangers_stop_nobody(tmp_path: Path, seed: int) -> None:
    """Every tenth message is followed by one like it that is not right. Answers may not be, either, but they end.

    What an operator or an orchestrator says, or a node of itself, is believed: one like it (a wish that no plan meets,
    a successor, a node of another protocol) is none to be refused. On these topics it is a part of a message.
    """
    fleet = SimulatedFleet(tmp_path, Schedule(seed, SHORT, ()))
    chance, see = random.Random(seed), fleet.broker.seen
    strangers: list[str] = []
    speaks = False

    def seen(topic: str, payload: bytes) -> None:
        nonlocal speaks
        if speaks:
            return
        see(topic, payload)
        if chance.random() < 0.1 and payload:
            strangers.append(topic)
            speaks = True
            if any(one.match(topic) for one in OBEYED):
                like = payload[: chance.randrange(len(payload))]
            else:
                like = altered_json(payload, ALL, chance) if payload[:1] == b"{" else altered_frames(payload, chance)
            fleet.broker.route(topic, like, 1, retain=False)
            speaks = False

    fleet.broker.seen = seen
    report = fleet.play()
    fleet.close()
    assert len(strangers) > 10
    assert not [line for line in report.wrong if line.startswith("waited")], report
