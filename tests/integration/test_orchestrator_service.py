"""The service with its adapters: bus, database, worker, HTTP; scripted nodes stand in for real ones."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker import heap
from broker.bus import Delivery
from broker.errors import BrokerUnreachable
from broker.local_broker import LocalBroker
from broker.memory import MemoryBroker, MemoryBus
from orchestrator.client import AnswerFailed, Client, ControlRefused
from orchestrator.errors import AddressInUse, Superseded
from orchestrator.model.errors import ModelFilesLost
from orchestrator.model.store import ModelStore
from orchestrator.service import run
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.run import run_service
from orchestrator.timing import Timing
from schemas.messages import (
    ChatMessage,
    Epoch,
    FleetEvent,
    NodeStatus,
    OperatorRefusal,
    Plan,
    PlanConstraints,
    UseModelReply,
    decode,
    encode,
)
from schemas.topics import CONTROL_REPLY, CONTROL_SUBMIT, NODE_STATUS, PLAN, REQUEST_SUBMIT, TOKEN
from tests.support.added_model import AddedModel
from tests.support.polling import DEADLINE_S
from tests.support.scripted_fleet import ScriptedFleet, TinyStore, prepared
from tests.support.scripted_nodes import answer_text, make_birth, make_manifest, make_submit
from tests.support.scripted_service import QUICK, ScriptedService
from tests.support.secured_broker import SecuredBroker
from tests.support.services import patient_client, running_service


def connected(broker: MemoryBroker, client_id: str, **options: Any) -> MemoryBus:
    bus = MemoryBus(broker, client_id=client_id, **options)
    bus.connect()
    return bus


@contextmanager
def running(
    broker: MemoryBroker, folder: Path, store: TinyStore | None = None, timing: Timing = QUICK
) -> Iterator[ScriptedService]:
    service = ScriptedService(connected(broker, "orchestrator"), folder, store or TinyStore(), timing)
    try:
        yield service
    finally:
        service.end()


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def fleet(broker: MemoryBroker) -> Iterator[ScriptedFleet]:
    with ScriptedFleet(connected(broker, "nodes"), [make_birth(name, memory_mb=190) for name in "abcd"]) as nodes:
        yield nodes


@pytest.fixture
def client(broker: MemoryBroker) -> Iterator[Client]:
    with Client(connected(broker, "cli"), name="cli", broker="memory") as cli:
        yield cli


def hello(client: Client, **options: Any) -> str:
    return "".join(client.ask([ChatMessage(role="user", content="hello")], **{"max_tokens": 10, **options}))


class Listener:
    """Reads one topic."""

    def __init__(self, broker: MemoryBroker, pattern: str) -> None:
        self._bus = connected(broker, f"listener {pattern}".replace("/", "."))
        self._bus.subscribe([pattern], qos=1)

    def until(self, wanted: Callable[[Delivery], bool]) -> Delivery:
        for _ in range(1000):
            for event in self._bus.poll(DEADLINE_S):
                if isinstance(event, Delivery) and wanted(event):
                    return event
        raise AssertionError("it did not come")


def test_events_are_published_and_kept_and_drains_are_remembered(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    client.listen()
    with running(broker, tmp_path):
        heard: list[FleetEvent] = []
        kinds: Counter[str] = Counter()
        # On a busy machine a plan may be made before all have joined, and the model be open after some have.
        while kinds["joined"] < 4 or not kinds["plan"]:
            heard += client.events()
            kinds = Counter(event.kind for event in heard)
        assert set(kinds) == {"model", "joined", "plan"}
        assert [event.number for event in heard] == list(range(1, len(heard) + 1))
        assert list(client.past_events().events[: len(heard)]) == heard
        assert client.past_events(1).events == client.past_events().events[-1:]
        used = [stage.node for stage in client.plan().stages]
        client.drain(used[1])
        while used[1] in [stage.node for stage in client.plan().stages]:
            client.events()
        with Database(tmp_path / "state.sqlite3") as state:
            assert state.drained() == {used[1]}
    with running(broker, tmp_path) as again:
        assert again.service.core.plane.fleet.drained == {used[1]}
        client.drain(used[1], undo=True)
        assert again.state.drained() == frozenset()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"show me the plan", "not JSON: "),
        (b'{"type": "control.explode", "v": 1}', "there is no operation explode: use one of apply, drain, events, "),
        (b'{"type": "control.drain", "v": 1}', "node: is missing"),
        (b'{"type": "control.drain", "v": 1, "node": "a", "undo": "yes"}', "undo: must be true or false"),
        (b'{"type": "control.plan", "v": 2}', "v: this version reads 1"),
    ],
)
def test_whoever_sends_what_is_no_command_is_told(
    broker: MemoryBroker, tmp_path: Path, payload: bytes, reason: str
) -> None:
    place = {"client": "mallory", "request": "no-number"}
    with running(broker, tmp_path) as service:
        listener = Listener(broker, CONTROL_REPLY.filter(client="mallory"))
        connected(broker, "mallory").publish(CONTROL_SUBMIT.format(**place), payload, qos=1)
        answer = listener.until(lambda _delivery: True)
        assert answer.topic == CONTROL_REPLY.format(**place)
        assert decode(answer.payload, OperatorRefusal).reason.startswith(reason)
        assert service.service.inbox.rejected == 1


def test_an_answer_that_can_not_be_sent_is_refused(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(broker, tmp_path):
        hello(client)
        monkeypatch.setattr("schemas.registry.MAX_MESSAGE_BYTES", 500)
        with pytest.raises(ControlRefused, match="the answer can't be sent: message of"):
            client.nodes()


def plans(broker: MemoryBroker) -> Listener:
    return Listener(broker, PLAN.filter())


def has_ring(delivery: Delivery) -> bool:
    return bool(decode(delivery.payload, Plan).ring)


# --- with the in-memory broker ----------------------------------------------------------------------------------


def test_a_question_is_answered(broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path) -> None:
    with running(broker, tmp_path):
        answer = client.ask([ChatMessage(role="user", content="hello")], max_tokens=10, stats=True)
        assert "".join(answer) == answer_text(5, 10)
        assert answer.end
        assert answer.end.completion_tokens == 10
        assert len(answer.end.stages) == 3
        assert [stage.node for stage in client.plan().stages] == [s.node for s in answer.end.stages]
        assert client.status().state == "serving"
        assert len(client.nodes().nodes) == 4
        assert len(prepared(fleet)) == 3


def test_tokens_that_were_lost_are_asked_for(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    fleet.mute_tokens = True
    with running(broker, tmp_path):
        assert hello(client) == answer_text(5, 10)


def test_everything_delivered_twice_changes_nothing(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    broker.repeat = lambda _delivery: True
    with running(broker, tmp_path):
        assert hello(client) == answer_text(5, 10)
        assert hello(client) == answer_text(5, 10)


def test_a_lost_node_is_replaced(broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path) -> None:
    listener = plans(broker)
    with running(broker, tmp_path):
        first = decode(listener.until(has_ring).payload, Plan)
        lost = first.ring[1].node
        fleet.nodes[lost].alive = False
        will = NodeStatus(node=lost, incarnation=1, online=False, reason="lost")
        connected(broker, "will").publish(NODE_STATUS.format(node=lost), encode(will), qos=1, retain=True)
        second = decode(listener.until(has_ring).payload, Plan)
        assert lost not in [stage.node for stage in second.ring]
        assert hello(client) == answer_text(5, 10)


def test_a_clean_stop_takes_the_plan_down(broker: MemoryBroker, fleet: ScriptedFleet, tmp_path: Path) -> None:
    listener = plans(broker)
    with running(broker, tmp_path):
        listener.until(has_ring)
    listener.until(lambda delivery: not has_ring(delivery))


def test_a_second_start_goes_above_the_first_and_on_with_its_requests(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    with Database(tmp_path / "state.sqlite3") as state:
        state.next_generation("main")
        answer = client.ask([ChatMessage(role="user", content="hello")], max_tokens=8)  # nobody takes it
        state.begin_request("main", make_submit(client="cli", request=answer.request))
    listener = plans(broker)
    with running(broker, tmp_path):
        assert "".join(answer) == answer_text(5, 8)
        assert decode(listener.until(has_ring).payload, Plan).epoch.generation == 2


def test_a_lost_database_cannot_go_back(broker: MemoryBroker, fleet: ScriptedFleet, tmp_path: Path) -> None:
    old = Plan(
        pipeline="main", epoch=Epoch(generation=17, counter=4), model="tiny", context_tokens=8, slots=1,
        wire_dtype="fp16", ring=(),
    )  # fmt: skip
    connected(broker, "past").publish(PLAN.format(pipeline="main"), encode(old), qos=1, retain=True)
    listener = plans(broker)
    with running(broker, tmp_path) as service:
        assert decode(listener.until(has_ring).payload, Plan).epoch.generation == 18
        saved = service.state.epoch("main")
        assert saved
        assert saved.generation == 18


def test_the_newer_of_two_orchestrators_stays(broker: MemoryBroker, fleet: ScriptedFleet, tmp_path: Path) -> None:
    listener = plans(broker)
    elder = ScriptedService(connected(broker, "orchestrator"), tmp_path, TinyStore(), QUICK)
    listener.until(has_ring)
    rival = replace(decode(encode_plan(elder), Plan), epoch=Epoch(generation=99, counter=1))
    connected(broker, "rival").publish(PLAN.format(pipeline="main"), encode(rival), qos=1, retain=True)
    elder.thread.join(DEADLINE_S)
    assert isinstance(elder.error, Superseded)
    elder.end()


def encode_plan(service: ScriptedService) -> bytes:
    active = service.service.core.plane.pipeline.active
    assert active
    return encode(active.plan.message())


def test_a_broker_that_comes_back_empty_gets_the_plan_again(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    listener = plans(broker)
    with running(broker, tmp_path):
        plan = listener.until(has_ring).payload
        broker.stop()
        broker.start()
        assert listener.until(has_ring).payload == plan
        assert hello(client) == answer_text(5, 10)


def test_who_stood_still_does_not_say_that_the_broker_was_away(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.listen()
    with running(broker, tmp_path):
        with monkeypatch.context() as patched:
            patched.setattr("orchestrator.service.service._STOOD_STILL_S", -1.0)  # as if each turn came too late
            told: list[str] = []
            while not told:
                told = [event.text for event in client.events() if event.kind == "broker"]
        assert set(told) == {"this orchestrator stood still, and goes on"}


def test_garbage_is_counted_logged_once_and_harms_nobody(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vandal = connected(broker, "vandal")
    with running(broker, tmp_path) as service, caplog.at_level(logging.WARNING):
        for _ in range(3):
            for topic in (
                NODE_STATUS.format(node="a"),
                PLAN.format(pipeline="main"),
                REQUEST_SUBMIT.format(client="x"),
                TOKEN.format(pipeline="main", epoch="1-1", sender="a", receiver="a"),
            ):
                vandal.publish(topic, b"\xff garbage")
        assert hello(client) == answer_text(5, 10)
        assert service.service.inbox.rejected == 12
    assert sum("rejected a message" in record.message for record in caplog.records) == 4


def test_nobody_speaks_in_anothers_name(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    saved: list[str] = []
    with running(broker, tmp_path) as service:
        service.state.begin_request = lambda _, submit: saved.append(submit.client)  # type: ignore[method-assign]
        message = encode(make_submit(77))
        connected(broker, "mallory").publish(REQUEST_SUBMIT.format(client="mallory"), message, qos=1)
        assert hello(client) == answer_text(5, 10)
    assert saved == ["cli"], "only the client's own submission was taken"


def test_an_answer_that_the_broker_would_not_pass_on_is_a_refusal_with_both_numbers(
    broker: MemoryBroker, client: Client, tmp_path: Path
) -> None:
    births = [make_birth(name, max_message_bytes=2_000) for name in "abcd"]
    with running(broker, tmp_path), ScriptedFleet(connected(broker, "nodes"), births):
        while client.status().nodes < len(births):
            pass
        assert client.status().max_message_bytes == 2_000
        with pytest.raises(ControlRefused, match=r"message of 3,\d{3} bytes, .* passes on 2,000 bytes at most"):
            client.nodes()


def test_use_model_is_remembered_by_the_store(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    store = TinyStore(make_manifest(), make_manifest("other"))
    with running(broker, tmp_path, store):
        hello(client)
        assert store.held == {"tiny"}
        assert client.use_model("other") == UseModelReply(model="other")
        assert hello(client) == answer_text(5, 10)
        assert client.plan().model == "other"
        assert (store.active, store.held) == ("other", {"other"})
        with pytest.raises(ControlRefused):
            client.use_model("gone")
    assert store.held == set()


def test_hidden_states_travel_as_the_models_figures_say(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path
) -> None:
    store = TinyStore()
    store.wire = "fp32"
    with running(broker, tmp_path, store):
        hello(client)
        assert client.plan().wire_dtype == "fp32"


def test_a_model_that_lost_files_is_a_clear_state(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, lost = TinyStore._segment, threading.Event()

    def segment(start: int, stop: int, *, wire: str = "fp32", positions: int | None = None) -> Any:
        if lost.is_set():
            raise ModelFilesLost("tiny", "decoder.onnx")
        return whole(start, stop, wire=wire)

    monkeypatch.setattr(TinyStore, "_segment", staticmethod(segment))
    with running(broker, tmp_path):
        hello(client)
        node = client.plan().stages[0].node
        lost.set()
        with pytest.raises(ControlRefused, match=r"tiny has lost its file decoder\.onnx: add it again"):
            client.apply(PlanConstraints(exclude=(node,)))
        assert hello(client) == answer_text(5, 10), "the nodes have their parts"
    with running(broker, tmp_path), pytest.raises(AnswerFailed, match="lost its file"):
        hello(client)


def test_a_worker_that_breaks_is_an_answer_not_a_crash(
    broker: MemoryBroker, fleet: ScriptedFleet, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(start: int, stop: int) -> Any:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(TinyStore, "_segment", staticmethod(broken))
    with running(broker, tmp_path), pytest.raises(AnswerFailed, match="internal error"):
        hello(client)


# --- the whole service, with a real broker -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


def test_the_service_starts_without_a_model_answers_and_stops(mosquitto: LocalBroker, tmp_path: Path) -> None:
    config = ServiceConfig(broker_url=mosquitto.url, data_dir=tmp_path, timing=QUICK)
    with running_service(config) as info:
        assert info.model is None
        assert info.blob_urls[0].startswith("https://127.0.0.1:")
        assert info.blob_urls[0].endswith("/v1/blobs")
        with patient_client(mosquitto.url) as client:
            with pytest.raises(AnswerFailed, match="no model is active") as error:
                hello(client)
            assert error.value.code == "no_model"
            assert client.status().generation == info.generation == 1


def test_the_first_model_is_served_as_soon_as_it_is_added(
    mosquitto: LocalBroker, tmp_path: Path, added_model: AddedModel
) -> None:
    config = ServiceConfig(broker_url=mosquitto.url, data_dir=tmp_path, timing=QUICK)
    with running_service(config), patient_client(mosquitto.url) as client:
        assert client.status().model is None
        client.listen()
        archive = tmp_path / "tiny.tar"
        ModelStore(added_model.home / "models").export("tiny", archive)
        ModelStore(tmp_path / "models").add(str(archive))
        while client.status().model != "tiny":
            client.events(DEADLINE_S)


def test_while_it_serves_freed_memory_goes_back_to_the_system(
    mosquitto: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr(heap, "trim", trimmed.release)
    monkeypatch.setattr(run, "TRIM_INTERVAL_S", 0.01)
    with running_service(ServiceConfig(broker_url=mosquitto.url, data_dir=tmp_path, timing=QUICK)):
        assert trimmed.acquire(timeout=DEADLINE_S)
        assert trimmed.acquire(timeout=DEADLINE_S)


def test_who_serves_no_fleet_serves_model_parts_by_http(open_mosquitto: LocalBroker, tmp_path: Path) -> None:
    """On a broker that lets in anybody nobody has a key, nor knows an authority."""
    with running_service(ServiceConfig(broker_url=open_mosquitto.url, data_dir=tmp_path)) as info:
        assert info.blob_urls[0].startswith("http://127.0.0.1:")


def test_advertised_urls_replace_those_found_out(mosquitto: LocalBroker, tmp_path: Path) -> None:
    config = ServiceConfig(broker_url=mosquitto.url, data_dir=tmp_path, advertised_urls=("http://orchestrator:8470/",))
    with running_service(config) as info:
        assert info.blob_urls == ("http://orchestrator:8470/v1/blobs",)


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = ServiceConfig(broker_url=f"mqtt://127.0.0.1:{port}", data_dir=tmp_path)
    with pytest.raises(BrokerUnreachable):
        run_service(config, stop=threading.Event())


def test_a_taken_blob_port_is_one_line(mosquitto: LocalBroker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServiceConfig(broker_url=mosquitto.url, data_dir=tmp_path, blob_port=taken.getsockname()[1])
        with pytest.raises(AddressInUse), running_service(config):
            pass
