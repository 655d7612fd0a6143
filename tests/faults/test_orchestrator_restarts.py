"""An orchestrator that is killed and starts again in the middle of answers: readers get what they would have got."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from orchestrator.service.database import Database
from schemas.messages import Sampling
from tests.support.bus_recorder import until
from tests.support.mqtt_proxy import MqttProxy
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.readers import Question, read_through
from tests.support.secured_broker import SecuredBroker
from tests.support.services import apply, operator, running_orchestrator, wait_until_serving

NODES = ("a", "b", "c")
PINS = [["embed", "a"], ["0-1", "b"], ["2-3", "c"], ["head", "a"]]
PROMPTS = ("The capital of France", "Once upon a time")
TOKENS = 90
DELAY_S = 0.008
"""Of each message on its way to a node: an answer takes seconds, so that there is a middle of it."""
SERVE = ("--model", "tiny", "--min-nodes", "3", "--context", "128", "--slots", "2", "--wire", "fp32", "--no-balance")


@dataclass
class World:
    """Nodes that stay, and an orchestrator that comes and goes."""

    broker: LocalBroker
    store: ModelStore
    folder: Path
    stack: ExitStack
    nodes: dict[str, NodeProcess] = field(default_factory=dict)
    starts: list[NodeProcess] = field(default_factory=list)
    undisturbed: list[list[int]] = field(default_factory=list)
    machine: str = "orchestrator"
    """Where the orchestrator runs."""

    @property
    def home(self) -> Path:
        return self.folder / self.machine

    def start(self, *options: str) -> None:
        """Start an orchestrator, on what the last one has left in its folder."""
        (self.home / "models").unlink(missing_ok=True)
        started = running_orchestrator(self.broker.url, self.store, self.home, *SERVE, *options)
        self.starts.append(self.stack.enter_context(started))

    def begin(self) -> None:
        """Start all and note what is answered as long as nothing happens."""
        self.start()
        proxy = self.stack.enter_context(MqttProxy(self.broker.url))
        self.nodes = self.stack.enter_context(running_nodes(NODES, proxy.url, self.folder))
        with operator(self.broker.url) as client:
            wait_until_serving(client)
            apply(client, pins=PINS)
        proxy.down.delay_s = DELAY_S
        self.undisturbed = answers(self, lambda: None)
        assert all(len(ids) > TOKENS // 2 for ids in self.undisturbed), [len(ids) for ids in self.undisturbed]

    def kill(self) -> None:
        """End the orchestrator as a power cut would."""
        self.starts[-1].end(signal.SIGKILL)


@pytest.fixture(scope="module")
def world(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("restarts")
    with ExitStack() as stack:
        broker = stack.enter_context(SecuredBroker())
        world = World(broker, tiny_store, folder, stack)
        world.begin()
        yield world


def answers(world: World, fault: Callable[[], None]) -> list[list[int]]:
    """Tokens of two answers, one greedy and one drawn; the fault comes when both have begun."""
    questions = [
        Question(prompt, TOKENS, Sampling(temperature=float(number), seed=11)) for number, prompt in enumerate(PROMPTS)
    ]
    return read_through([world.broker.url] * len(questions), questions, fault)


def test_answers_go_on_and_the_running_plan_stays(world: World) -> None:
    with operator(world.broker.url) as client:
        epoch = client.status().epoch

    def restart() -> None:
        world.kill()
        world.start()

    assert answers(world, restart) == world.undisturbed
    with operator(world.broker.url) as client:
        assert client.status().epoch == epoch, "nothing was loaded anew"


def test_the_running_plan_stays_where_the_broker_was_killed_too(world: World) -> None:
    """Mosquitto has no memory of its own here: the database has the plan, and nodes say that they hold their parts."""
    with operator(world.broker.url) as client:
        epoch = client.status().epoch

    def restart() -> None:
        world.kill()
        world.broker.restart(abruptly=True)
        world.start()

    assert answers(world, restart) == world.undisturbed
    with operator(world.broker.url) as client:
        assert client.status().epoch == epoch, "nothing was loaded anew"
    assert f"epoch {epoch} of main goes on" in world.starts[-1].log()


def test_answers_go_on_without_the_database(world: World) -> None:
    def restart() -> None:
        world.kill()
        shutil.rmtree(world.home)
        world.start()

    assert answers(world, restart) == world.undisturbed


def test_answers_go_on_where_a_node_was_lost_meanwhile(world: World) -> None:
    """The fewest nodes of a first plan are no reason to wait: there was one."""
    with operator(world.broker.url) as client:
        apply(client)
        lost = client.plan().stages[0].node

    def restart() -> None:
        world.kill()
        world.nodes[lost].end(signal.SIGKILL)
        world.start()

    assert answers(world, restart) == world.undisturbed
    world.nodes[lost] = world.stack.enter_context(running_nodes([lost], world.broker.url, world.folder))[lost]
    with operator(world.broker.url) as client:
        while not all(node.state == "online" for node in client.nodes().nodes):
            client.events(0.1)
        apply(client, pins=PINS)


def test_one_that_stands_by_goes_on(world: World) -> None:
    """On another machine, with what operators want; and the first one stands by when it comes back."""
    with operator(world.broker.url) as client:
        apply(client, pins=PINS)
        epoch = client.status().epoch
    incumbent, first_machine = world.starts[-1], world.machine
    world.machine = "another machine"
    world.start("--standby")
    with Database(world.home / "state.sqlite3") as state:
        until("what operators want", lambda: bool(state.constraints("main").pins))
    assert answers(world, lambda: incumbent.end(signal.SIGKILL) and None) == world.undisturbed
    with operator(world.broker.url) as client:
        status = client.status()
        assert status.epoch == epoch, "nothing was loaded anew"
    world.machine, serves = first_machine, world.starts[-1]
    world.start("--standby")
    assert serves.process.poll() is None
    began_s = time.monotonic()
    assert serves.end() == 0
    with operator(world.broker.url) as client:
        wait_until_serving(client)
    assert time.monotonic() - began_s < 10.0, "who ends of its own accord is replaced at once"
