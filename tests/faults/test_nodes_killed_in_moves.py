"""Nodes are killed in the middle of moves, wherever that happens to be, and come back: no reader can tell."""

import itertools
import random
import signal
import threading
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import ControlRefused
from orchestrator.model.store import ModelStore
from orchestrator.planning.moves import kv_migration
from schemas.messages import Sampling
from tests.support.moves import PLANS, moving
from tests.support.nodes import start_node

SAMPLINGS = [Sampling(), Sampling(temperature=3.0, seed=1), Sampling(repetition_penalty=1.3)]
TOKENS = 120
ROUNDS = 9
SPEED = ("--emulate-speed", "0.03", "--drain-timeout", "0")


@pytest.mark.long
def test_text_over_killed_nodes(
    tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    with moving(tiny_store, mosquitto, tmp_path, "abc", *SPEED) as (fleet, nodes):
        fleet.apply(PLANS[0])
        undisturbed = [ids for ids, _ in fleet.read(SAMPLINGS, TOKENS)]
        for victim, extra_s in itertools.islice(zip(itertools.cycle("abc"), itertools.cycle((-100, 100))), ROUNDS):
            monkeypatch.setattr(kv_migration, "HOLD_S", extra_s)

            def kill(name: str = victim) -> None:
                nodes[name].end(signal.SIGKILL)
                nodes[name] = start_node(name, mosquitto.url, nodes[name].home, *SPEED)

            killing = threading.Timer(chance.uniform(0.2, 1.0), kill)
            killing.start()
            moved = fleet.read_while_moving(SAMPLINGS, TOKENS, 8, (ControlRefused,))
            killing.join()
            assert [ids for ids, _ in moved] == undisturbed
