"""Disks that are full, and homes that somebody removes: said, healed where that can be, and no answer is lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.client import Client, ControlRefused
from orchestrator.model.store import ModelStore
from tests.faults.test_orchestrator_restarts import PINS, World, answers
from tests.support.bus_recorder import until
from tests.support.secured_broker import SecuredBroker
from tests.support.services import apply, operator
from tests.support.small_disk import fill, small_disk

pytestmark = pytest.mark.long
ORCHESTRATOR_BYTES, NODE_BYTES = 4_000_000, 16_000_000
OTHER_PINS = [["embed", "a"], ["0", "b"], ["1-3", "c"], ["head", "a"]]
FEWER_PINS = [["embed", "a"], ["0-2", "b"], ["3", "c"], ["head", "a"]]


@pytest.fixture(scope="module")
def world(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """An orchestrator and three nodes, two of whose homes are on small disks."""
    folder = tmp_path_factory.mktemp("storage")
    with ExitStack() as stack:
        broker = stack.enter_context(SecuredBroker())
        world = World(broker, tiny_store, folder, stack)
        stack.enter_context(small_disk(world.home, ORCHESTRATOR_BYTES))
        stack.enter_context(small_disk(folder / "c", NODE_BYTES))
        world.begin()
        yield world


def told(client: Client, text: str) -> bool:
    return any(text in event.text for event in client.past_events().events)


def test_answers_go_on_while_the_orchestrators_disk_is_full(world: World) -> None:
    filler: list[Path] = []
    assert answers(world, lambda: filler.append(fill(world.home))) == world.undisturbed
    with operator(world.broker.url) as client:
        until("that it is said", lambda: told(client, "state.sqlite3 can't be written: "))
        filler[0].unlink()
        assert answers(world, lambda: None) == world.undisturbed
        until("that it is over", lambda: told(client, "state.sqlite3 is written again"), 30.0)


def test_a_node_goes_on_without_its_home(world: World) -> None:
    """What is loaded stays; what the next plan needs is fetched into a new folder."""
    home = world.nodes["b"].home
    assert answers(world, lambda: shutil.rmtree(home)) == world.undisturbed
    with operator(world.broker.url) as client:
        apply(client, pins=OTHER_PINS)
        assert answers(world, lambda: None) == world.undisturbed
        assert any((home / "blobs").iterdir())
        apply(client, pins=PINS)


def test_a_node_whose_disk_is_full_makes_room_or_says_so(world: World) -> None:
    """It deletes what no segment needs. What there is no room for even so is not put in force."""
    home = world.nodes["c"].home
    spare = {path.name for path in (home / "blobs").iterdir()}
    filler = fill(home)
    with operator(world.broker.url) as client:
        apply(client, pins=FEWER_PINS)
        assert spare - {path.name for path in (home / "blobs").iterdir()}
        fill(home)
        with pytest.raises(ControlRefused, match=r"c: .*: make room at "):
            apply(client, pins=OTHER_PINS)
        assert answers(world, lambda: None) == world.undisturbed
    filler.unlink()
