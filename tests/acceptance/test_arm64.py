"""A phone's processor in the ring: a node on 64-bit ARM, beside one of this machine's own architecture."""

from __future__ import annotations

import json
import pickle
import platform
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from broker.bus import Delivery, Event
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.timing import Timing
from schemas import PACKAGE_VERSION
from schemas.codec import Dtype, Frame, Kind, decode_frames
from schemas.messages import Heartbeat
from schemas.topics import SEGMENT
from tests.support.arm64 import CHIPS, Chip, arm64_python
from tests.support.live_move import move
from tests.support.members import as_orchestrator
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.polling import collect, subscribe
from tests.support.repository import ROOT
from tests.support.ring import Ring
from tests.support.secured_broker import SecuredBroker
from tests.support.segments import segment_spec
from tests.support.services import apply, patient_client, running_service, wait_until_serving
from tests.support.tiny_models import make_checkpoint

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(3600)]

START_S = 240.0
PATIENT = ("--watchdog-s", "60")
"""That a node is slow is no reason to repeat anything."""
SLOW = ("--emulate-speed", "0.05")
"""So that answers last longer than moves."""
PROMPT = list(range(7, 40))
TOKENS = 30
ORDERS = (("phone", "here"), ("here", "phone"))
PLAN = {"context_tokens": 128, "chunk_tokens": 16}
MOST_BYTES = 256 << 20
"""Of a node with a tiny model, QEMU included."""


@dataclass
class Fleet:
    """A phone and a node of this machine's own, at a broker."""

    broker: LocalBroker
    nodes: dict[str, NodeProcess]
    ring: Ring

    @property
    def homes(self) -> dict[str, Path]:
        return {name: node.home for name, node in self.nodes.items()}


@contextmanager
def started(
    broker_url: str, chip: Chip, folder: Path, phone_options: Sequence[str] = SLOW, here_options: Sequence[str] = SLOW
) -> Iterator[dict[str, NodeProcess]]:
    machine = folder / "machine"
    machine.mkdir()
    python = arm64_python(chip, machine)
    with running_nodes(["here"], broker_url, folder, *PATIENT, *here_options) as nodes:
        phone = start_node("phone", broker_url, folder / "phone", *PATIENT, *phone_options, python=python)
        try:
            yield {**nodes, "phone": phone}
        finally:
            phone.end()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """The tiny model in two precisions, in the profile that promises the same text anywhere."""
    folder = tmp_path_factory.mktemp("models")
    store = ModelStore(folder / "home")
    checkpoint = str(make_checkpoint("llama", folder / "checkpoint"))
    for precision in ("fp32", "int4"):
        store.add(checkpoint, name=precision, precision=precision, profile="exact")
    return store


@pytest.fixture(
    scope="module",
    params=list(zip(CHIPS, ("int4", "fp32"), strict=True)),
    ids=lambda case: f"{case[0].name}-{case[1]}",
)
def fleet(
    request: pytest.FixtureRequest, store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    chip, precision = request.param
    with (
        SecuredBroker() as broker,
        started(broker.url, chip, tmp_path_factory.mktemp("fleet")) as nodes,
        Ring(broker.url, store.open(precision)) as ring,
    ):
        ring.wait("nodes", lambda: ring.births.keys() == nodes.keys(), START_S)
        yield Fleet(broker, nodes, ring)
        assert [node.end() for node in nodes.values()] == [0, 0]
        assert "Traceback" not in nodes["phone"].log() + nodes["here"].log()


@pytest.fixture(scope="module")
def expected(fleet: Fleet) -> list[int]:
    """The text of the whole model on this machine's own architecture."""
    fleet.ring.deploy(fleet.homes, [0, 6], order=["here"], **PLAN)
    ids = fleet.ring.ask(PROMPT, TOKENS).ids
    assert len(set(ids)) > 3, "the model says something"
    return ids


def test_birth_and_heartbeats_are_those_of_a_phone(fleet: Fleet) -> None:
    birth = fleet.ring.births["phone"]
    assert birth.platform == "Linux aarch64"
    assert fleet.ring.births["here"].platform == f"Linux {platform.machine()}"
    assert (birth.package_version, birth.onnxruntime) == (PACKAGE_VERSION, onnxruntime.__version__)
    assert birth.memory_bytes > birth.overhead_bytes > 10_000_000
    assert birth.speed_flops > 1e6
    beats: list[Heartbeat] = []
    while len(beats) < 2:
        fleet.ring.heartbeats.pop("phone", None)
        fleet.ring.wait("a heartbeat", lambda: "phone" in fleet.ring.heartbeats)
        beats.append(fleet.ring.heartbeats["phone"])
    assert {beat.incarnation for beat in beats} == {birth.incarnation}
    assert beats[0].uptime_s < beats[1].uptime_s


def test_the_whole_model_says_the_same(fleet: Fleet, expected: list[int]) -> None:
    fleet.ring.deploy(fleet.homes, [0, 6], order=["phone"], **PLAN)
    assert fleet.ring.ask(PROMPT, TOKENS).ids == expected


@pytest.mark.parametrize("wire", ["fp32", "fp16"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_ring_of_both_architectures_says_what_one_node_says(
    fleet: Fleet, expected: list[int], order: tuple[str, str], wire: str
) -> None:
    fleet.ring.deploy(fleet.homes, [0, 3, 6], order=order, wire=wire, **PLAN)
    answer = fleet.ring.ask(PROMPT, TOKENS)
    assert answer.ids == expected
    assert [answer.timings[stage].positions for stage in (0, 1)] == [len(PROMPT) + TOKENS - 1] * 2, "nothing repeated"


def test_hidden_states_differ_in_their_last_bits_only(fleet: Fleet) -> None:
    states = {order[0]: hidden_states(fleet, order) for order in ORDERS}
    assert states["phone"].shape == (len(PROMPT) + TOKENS - 1, 64)
    largest = np.abs(states["here"]).max()
    assert np.abs(states["phone"] - states["here"]).max() <= 1e-5 * largest


def test_answers_go_on_while_kv_rows_change_the_architecture(fleet: Fleet) -> None:
    options = {"context_tokens": 256, "chunk_tokens": 8}
    fleet.ring.deploy(fleet.homes, [0, 3, 6], order=ORDERS[0], **options)
    undisturbed = fleet.ring.ask(PROMPT, 200)
    answer = fleet.ring.open(PROMPT, 200)
    for order, cuts in ((ORDERS[1], [0, 3, 6]), (ORDERS[0], [0, 2, 6])):
        moved_at = len(answer.ids) + 10
        fleet.ring.wait("tokens", lambda: len(answer.ids) >= moved_at)  # noqa: B023
        move(fleet.ring, fleet.homes, order, cuts, **options)
        assert not answer.finish, "the answer was over before the move"
    fleet.ring.finish(answer)
    assert answer.ids == undisturbed.ids
    assert answer.timings[0].positions + answer.timings[1].positions < 3 * len(PROMPT) + 2 * 200, "not computed anew"


def test_memory_at_its_peak(fleet: Fleet) -> None:
    fleet.ring.heartbeats.pop("phone", None)
    fleet.ring.wait("a heartbeat", lambda: "phone" in fleet.ring.heartbeats)
    peak_bytes = fleet.ring.heartbeats["phone"].peak_rss_bytes
    print(
        f"peak memory {peak_bytes >> 20} MiB, before it held layers {fleet.ring.births['phone'].overhead_bytes >> 20}"
    )
    assert 10_000_000 < peak_bytes < MOST_BYTES


def test_sigterm_in_mid_answer_hands_the_layers_over(store: ModelStore, mosquitto: LocalBroker, tmp_path: Path) -> None:
    """With the orchestrator, which the phone gets its blobs from, too. The phone is the quicker one."""
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path, models_dir=store.home, wire_dtype="fp32", context_tokens=256,
        slots=2, model="fp32", min_nodes=2, timing=Timing(settle_s=0.2),
    )  # fmt: skip
    with (
        started(mosquitto.url, CHIPS[-1], tmp_path, ("--drain-timeout", "120"), ("--emulate-speed", "0.01")) as nodes,
        running_service(config),
        patient_client(mosquitto.url) as client,
    ):
        wait_until_serving(client)
        apply(client, timeout_s=120.0, objective="throughput", pins=[["head", "here"]])
        assert [stage.node for stage in client.plan().stages] == ["phone", "here"]
        expected = "".join(client.ask(prompt="def f(x):", max_tokens=80))
        answer = client.ask(prompt="def f(x):", max_tokens=80, stats=True)
        pieces = iter(answer)
        begun = "".join(next(pieces) for _ in range(10))
        nodes["phone"].process.send_signal(signal.SIGTERM)
        assert begun + "".join(pieces) == expected
        assert nodes["phone"].process.wait(START_S) == 0
        assert "it holds no layers: it ends" in nodes["phone"].log()
        assert answer.end
        assert [stage.node for stage in answer.end.stages] == ["here"]


@pytest.mark.parametrize("precision", ["int4", "fp32"])
@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_steady_gives_the_same_bits_in_any_runs(store: ModelStore, chip: Chip, precision: str, tmp_path: Path) -> None:
    """On each chip by itself: one run, chunks, single steps with a dummy behind them; without dummies it is seen."""
    model = store.open(precision)
    units = model.manifest.num_units
    python = arm64_python(chip, tmp_path)
    found = {}
    for profile in ("steady", "fast"):
        spec = segment_spec(model, 0, units, profile=profile, chunk_tokens=32)
        (tmp_path / "spec").write_bytes(pickle.dumps(spec))
        command = [python, "-m", "tests.support.equal_runs", tmp_path / "spec", model.blobs_folder / spec.graph.sha256]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found[profile] = json.loads(done.stdout)
    print(found)
    assert set(found["steady"].values()) == {0}, found


def hidden_states(fleet: Fleet, order: tuple[str, str]) -> NDArray[np.float32]:
    """What the first of two nodes tells the second: (positions, width)."""
    fleet.ring.deploy(fleet.homes, [0, 3, 6], order=order, **PLAN)
    count = len(PROMPT) + TOKENS - 1
    with MqttBus(as_orchestrator(fleet.broker.url), client_id="listener") as listener:
        listener.connect()
        subscribe(listener, SEGMENT.filter())
        fleet.ring.ask(PROMPT, TOKENS)
        heard = collect(listener, lambda events: sum(frame.count for frame in hidden_frames(events)) >= count)
    rows = [np.frombuffer(frame.payload, np.float32).reshape(frame.count, -1) for frame in hidden_frames(heard)]
    return np.concatenate(rows)


def hidden_frames(events: list[Event]) -> list[Frame]:
    frames = [frame for event in events if isinstance(event, Delivery) for frame in decode_frames(event.payload)]
    assert all(frame.dtype is Dtype.FP32 for frame in frames)
    return [frame for frame in frames if frame.kind is Kind.ACTIVATION]
