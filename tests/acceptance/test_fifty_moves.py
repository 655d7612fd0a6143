"""Layers move fifty times, at whatever token it comes to, and no reader can tell."""

import itertools
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from orchestrator.planning.moves import kv_migration
from schemas.messages import Sampling
from tests.support.moves import PLANS, moving

SAMPLINGS = [
    Sampling(),
    Sampling(temperature=3.0, seed=1),
    Sampling(temperature=0.8, top_p=0.9, seed=1),
    Sampling(repetition_penalty=1.3),
]
MOVES = 50
TOKENS = 230


@pytest.mark.long
def test_text_over_fifty_moves(
    tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moving(tiny_store, mosquitto, tmp_path, "abc", "--emulate-speed", "0.03") as (fleet, _):
        fleet.apply(PLANS[0])
        undisturbed = [ids for ids, _ in fleet.read(SAMPLINGS, TOKENS)]
        for extra_s in itertools.cycle((-100.0, 100.0)):  # rows are copied in one round, computed again in the next
            monkeypatch.setattr(kv_migration, "HOLD_S", extra_s)
            assert [ids for ids, _ in fleet.read_while_moving(SAMPLINGS, TOKENS, 15)] == undisturbed
            if fleet.moves().done >= MOVES:
                break
        assert fleet.moves().failed == 0
