"""Fixtures that many tests share: converted models are made once per session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from tests.support.tiny_models import make_checkpoint


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with one model, ``tiny``: a random Llama of four blocks, fp32, embedding tied to the head."""
    folder = tmp_path_factory.mktemp("tiny")
    store = ModelStore(folder / "home")
    store.add(str(make_checkpoint("llama", folder / "checkpoint")), name="tiny", precision="fp32", profile="exact")
    return store


@pytest.fixture(scope="session")
def tiny_model(tiny_store: ModelStore) -> Model:
    """The tiny model, opened."""
    return tiny_store.open("tiny")


@pytest.fixture
def mosquitto() -> Iterator[LocalBroker]:
    """A Mosquitto of the test's own."""
    with LocalBroker(kind="mosquitto") as broker:
        yield broker
