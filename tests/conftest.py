"""Fixtures that many tests share, how examples are drawn, and how many tests run at once.

Property tests draw the same examples in each run: who runs the tests to see whether all is well is not to meet a
case that nobody has met before. `make test-long` draws thirty times as many, others each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from broker.local_broker import LocalBroker, find_mosquitto, mosquitto_version
from orchestrator.model.lock import exclusive
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from tests.support.secured_broker import SecuredBroker
from tests.support.tiny_store import TINY, add_tiny

EXPLORE = "explore"
MOST_WORKERS = 8

_ON_ANY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", _ON_ANY_MACHINE, derandomize=True, max_examples=30)
settings.register_profile(EXPLORE, _ON_ANY_MACHINE, max_examples=1000, print_blob=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make test-mosquitto`, the second time, and `make test-termux` say."""
    parser.addoption("--newer-mosquitto", action="store_true", help="tests use Mosquitto 2.1, fetched where need be")
    parser.addoption("--tiny-store", metavar="DIR", help="a store that has the model tiny: nothing is converted here")


def pytest_configure(config: pytest.Config) -> None:
    """Have all tests find the broker that is asked for; what can't be had ends the run.

    The configuration file of whoever runs them is not theirs.
    """
    os.environ["XDG_CONFIG_HOME"] = "/nowhere/config"
    if config.getoption("newer_mosquitto"):
        from tests.support.newer_mosquitto import use_newer_mosquitto

        use_newer_mosquitto()


def pytest_report_header() -> str:
    """Which broker the tests use."""
    found = find_mosquitto()
    return f"mosquitto {mosquitto_version(found)} ({found})" if found else "mosquitto is not installed"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where property tests explore, they are among those that take long."""
    if config.getoption("hypothesis_profile") == EXPLORE:
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker("long")
                item.add_marker(pytest.mark.timeout(3600))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For ``-n auto``: two for each core, as many tests wait for processes that they started.

    None for tests that are named one by one or whose output is to be seen.
    """
    if config.option.capture == "no" or (config.args and all("::" in name for name in config.args)):
        return 0
    return min(max((os.cpu_count() or 1) * 2, 2), MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``-n`` without ``--dist``: tests that share what is slow to make stay together."""
    if config.getoption("dist") != "load":
        return None
    from tests.support.scheduling import Scheduling

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def tiny_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with one model, ``tiny``, made once for all workers, whose folders are in one."""
    if made := request.config.getoption("tiny_store"):
        return ModelStore(Path(made))
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tiny"
    store = ModelStore(folder / "home")
    with exclusive(folder / "lock"):
        if TINY not in store.names():
            from tests.support.in_process import converting_here  # it needs what converts

            with converting_here():
                add_tiny(store)
    return store


@pytest.fixture(scope="session")
def tiny_model(tiny_store: ModelStore) -> Model:
    """The tiny model, opened."""
    return tiny_store.open(TINY)


@pytest.fixture
def mosquitto() -> Iterator[SecuredBroker]:
    """A Mosquitto of the test's own, for members of its fleet."""
    with SecuredBroker() as broker:
        yield broker


@pytest.fixture
def open_mosquitto() -> Iterator[LocalBroker]:
    """A Mosquitto of the test's own that lets in anybody, without TLS: for what is about such a broker."""
    with LocalBroker(kind="mosquitto") as broker:
        yield broker
