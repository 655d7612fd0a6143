"""The thread that fetches standby units: when it works, when it waits, and what it does about failures."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_node.errors import BlobUnavailable
from edge_node.storage.blob_store import BlobStore
from edge_node.storage.standby_fetcher import StandbyFetcher
from schemas.messages import BlobRef, KeepBlobs
from tests.support.polling import DEADLINE_S

URL = "http://127.0.0.1:1/blobs"


def blob(content: bytes) -> BlobRef:
    return BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


ONE, TWO, THREE = (blob(content) for content in (b"one", b"two", b"three"))


def keep(*blobs: BlobRef, pipeline: str = "main") -> KeepBlobs:
    return KeepBlobs(pipeline=pipeline, blobs=blobs, blob_urls=(URL,))


class ScriptedStore(BlobStore):
    """Records what is fetched; a transfer has two pieces. Each one can be made to wait or fail."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, limit_bytes=1000)
        self.fetched: list[BlobRef] = []
        self.broken_off: list[BlobRef] = []
        self.tried: list[BlobRef] = []
        self.failing: set[BlobRef] = set()
        self.step = threading.Condition()
        self.between_pieces: Callable[[], None] = lambda: None

    def fetch(
        self,
        blobs: Sequence[BlobRef],
        urls: Sequence[str],
        *,
        on_progress: Callable[[int, int], None],
        background: bool = False,
    ) -> int:
        assert background
        assert tuple(urls) == (URL,)
        (wanted,) = blobs
        self.tried.append(wanted)
        if wanted in self.failing:
            with self.step:
                self.step.notify_all()
            raise BlobUnavailable(f"{wanted.sha256[:12]}: no answer")
        outcome = self.broken_off
        try:
            on_progress(0, wanted.size_bytes)
            self.between_pieces()
            on_progress(wanted.size_bytes, wanted.size_bytes)
            outcome = self.fetched
        finally:
            with self.step:
                outcome.append(wanted)
                self.step.notify_all()
        return wanted.size_bytes

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.step:
            assert self.step.wait_for(condition, DEADLINE_S)


@pytest.fixture
def store(tmp_path: Path) -> ScriptedStore:
    return ScriptedStore(tmp_path)


@pytest.fixture
def keeper(store: ScriptedStore) -> StandbyFetcher:
    return StandbyFetcher(store, first_pause_s=0.01)


def test_blobs_come_in_order_once_it_is_allowed(store: ScriptedStore, keeper: StandbyFetcher) -> None:
    keeper.keep(keep(ONE, TWO))
    assert store.is_standby(TWO.sha256)
    assert store.tried == []
    keeper.allow(True)
    store.wait(lambda: store.fetched == [ONE, TWO])
    keeper.keep(keep(TWO, THREE))
    store.wait(lambda: store.fetched[2:] == [TWO, THREE])
    assert not store.is_standby(ONE.sha256)


def test_pipelines_have_lists_of_their_own(store: ScriptedStore, keeper: StandbyFetcher) -> None:
    keeper.allow(True)
    keeper.keep(keep(ONE))
    keeper.keep(keep(TWO, pipeline="second"))
    store.wait(lambda: {ONE, TWO} <= set(store.fetched))
    assert store.is_standby(ONE.sha256)


def test_a_transfer_gives_way_and_begins_again(store: ScriptedStore, keeper: StandbyFetcher) -> None:
    def forbid() -> None:
        store.between_pieces = lambda: None
        keeper.allow(False)

    store.between_pieces = forbid
    keeper.allow(True)
    keeper.keep(keep(ONE, TWO))
    store.wait(lambda: store.broken_off == [ONE])
    assert store.tried == [ONE]
    keeper.allow(True)
    store.wait(lambda: store.fetched == [ONE, TWO])
    assert store.tried == [ONE, ONE, TWO]


def test_a_new_list_ends_the_transfer_of_the_old_one(store: ScriptedStore, keeper: StandbyFetcher) -> None:
    def another() -> None:
        store.between_pieces = lambda: None
        keeper.keep(keep(TWO))

    store.between_pieces = another
    keeper.allow(True)
    keeper.keep(keep(ONE))
    store.wait(lambda: store.fetched == [TWO])


def test_failures_are_said_once_and_tried_again(
    store: ScriptedStore, keeper: StandbyFetcher, caplog: pytest.LogCaptureFixture
) -> None:
    store.failing = {TWO}
    keeper.allow(True)
    with caplog.at_level(logging.WARNING):
        keeper.keep(keep(ONE, TWO, THREE))
        store.wait(lambda: store.tried.count(TWO) >= 3)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["standby units are not complete"]
    assert THREE not in store.fetched
    store.failing = set()
    store.wait(lambda: THREE in store.fetched)
