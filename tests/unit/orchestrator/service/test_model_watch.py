"""A service that has begun without a model finds the first one; one that has begun with one looks for none."""

from __future__ import annotations

from orchestrator.service.model_watch import LOOK_S, ModelWatch
from tests.support.scripted_fleet import TinyStore


def test_the_first_model_is_told_once() -> None:
    store = TinyStore()
    (name,) = store.models
    store.active = None
    watch = ModelWatch(store, None)  # type: ignore[arg-type]
    assert watch.look(0.0) is None
    store.active = name
    assert watch.look(LOOK_S / 2) is None, "it does not look all the time"
    assert watch.look(LOOK_S) == name
    store.active = "another"
    assert watch.look(100 * LOOK_S) is None


def test_who_has_a_model_waits_for_none() -> None:
    store = TinyStore()
    assert ModelWatch(store, store.active).look(1e9) is None  # type: ignore[arg-type]
