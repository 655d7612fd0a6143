"""The blob store against a real HTTP server that breaks in every way that servers and connections do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_node.errors import BlobUnavailable, LoadCancelled, StorageFull
from edge_node.storage.blob_files import SCRATCH_SUFFIX
from edge_node.storage.blob_store import BlobStore
from schemas.back_off import back_off_s, out_of_step
from schemas.messages import BlobRef

MEBI = 1 << 20


@dataclass
class Server:
    """Serves ``contents`` by SHA-256; the other fields say how it misbehaves, per path prefix."""

    url: str = ""
    contents: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header)"""
    cut_after_bytes: int | None = None
    """Close the connection after so many bytes, once."""
    ranges: bool = True

    def add(self, content: bytes) -> BlobRef:
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        return BlobRef(sha256=sha256, size_bytes=len(content))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted_range = handler.headers.get("Range")
        self.requests.append((handler.path, wanted_range))
        kind, sha256 = handler.path.strip("/").split("/")
        content = self.contents.get(sha256)
        if content is None or kind == "missing":
            handler.send_error(404)
            return
        if kind == "wrong":
            content = bytes(len(content))
        if kind == "long":
            content = bytes(len(content)) + b"more"
        start = 0
        if wanted_range and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted_range)[1])  # type: ignore[index]
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        body = content[start:]
        if self.cut_after_bytes is not None:
            body, self.cut_after_bytes = body[: self.cut_after_bytes], None
        handler.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # a client that is sent too much goes away
                state.answer(self)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        try:
            yield state
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return open_store(tmp_path)


def open_store(tmp_path: Path, limit_bytes: int = 64 * MEBI) -> BlobStore:
    """A store that does not wait before it tries again."""
    return BlobStore(tmp_path / "blobs", limit_bytes=limit_bytes, sleep=lambda pause_s: None)


def content(size_bytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


def fetch(store: BlobStore, blobs: list[BlobRef], *urls: str) -> int:
    return store.fetch(blobs, urls, on_progress=lambda done, total: None)


def names(store: BlobStore) -> set[str]:
    return {path.name for path in store.directory.iterdir()}


def test_blobs_arrive_once_and_progress_is_told(server: Server, store: BlobStore) -> None:
    blobs = [server.add(content(3 * MEBI + 5)), server.add(content(10, 1)), server.add(content(3 * MEBI + 5))]
    progress: list[tuple[int, int]] = []
    fetched = store.fetch(blobs, [f"{server.url}/good"], on_progress=lambda *stats: progress.append(stats))
    total = 3 * MEBI + 15
    assert fetched == total
    assert progress[0] == (0, total)
    assert progress[-1] == (total, total)
    assert progress == sorted(progress)
    assert len(progress) >= 4
    assert names(store) == {blobs[0].sha256, blobs[1].sha256}
    assert store.path(blobs[0].sha256).read_bytes() == content(3 * MEBI + 5)
    assert store.used_bytes() == total
    assert fetch(store, blobs, f"{server.url}/good") == 0
    assert len(server.requests) == 2


def test_a_proxy_of_the_environment_is_not_asked(
    server: Server, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    blob = server.add(content(10))
    assert fetch(store, [blob], f"{server.url}/good") == 10
    assert [path for path, _ in server.requests] == [f"/good/{blob.sha256}"]


def test_a_partial_file_is_resumed(server: Server, store: BlobStore) -> None:
    blob = server.add(content(MEBI))
    (store.directory / f"{blob.sha256}.part").write_bytes(content(MEBI)[:700_000])
    assert fetch(store, [blob], f"{server.url}/good") == MEBI - 700_000
    assert server.requests == [(f"/good/{blob.sha256}", "bytes=700000-")]
    assert store.path(blob.sha256).read_bytes() == content(MEBI)


def test_a_complete_partial_file_is_only_checked(server: Server, store: BlobStore) -> None:
    blob = server.add(content(1000))
    (store.directory / f"{blob.sha256}.part").write_bytes(content(1000))
    assert fetch(store, [blob], f"{server.url}/good") == 0
    assert server.requests == []
    assert names(store) == {blob.sha256}


def test_a_truncated_connection_is_resumed(server: Server, store: BlobStore) -> None:
    blob = server.add(content(5 * MEBI))
    server.cut_after_bytes = 3 * MEBI
    assert fetch(store, [blob], f"{server.url}/good") >= 2 * MEBI
    assert server.requests[0][1] is None
    assert server.requests[1][1] == f"bytes={3 * MEBI}-"
    assert store.path(blob.sha256).read_bytes() == content(5 * MEBI)


def test_a_server_without_ranges_begins_again(server: Server, store: BlobStore) -> None:
    server.ranges = False
    blob = server.add(content(MEBI))
    (store.directory / f"{blob.sha256}.part").write_bytes(content(MEBI)[:700_000])
    assert fetch(store, [blob], f"{server.url}/good") == MEBI
    assert store.path(blob.sha256).read_bytes() == content(MEBI)


@pytest.mark.parametrize("junk_bytes", [1, 999, 1000, 1001, 5000])
def test_a_spoilt_partial_file_is_thrown_away(server: Server, store: BlobStore, junk_bytes: int) -> None:
    blob = server.add(content(1000))
    (store.directory / f"{blob.sha256}.part").write_bytes(bytes(junk_bytes))
    fetch(store, [blob], f"{server.url}/good")
    assert store.path(blob.sha256).read_bytes() == content(1000)
    assert names(store) == {blob.sha256}


@pytest.mark.parametrize("bad", ["missing", "wrong", "long"])
def test_a_bad_server_does_not_spoil_the_good_one(server: Server, store: BlobStore, bad: str) -> None:
    blob = server.add(content(2 * MEBI + 3))
    fetch(store, [blob], f"{server.url}/{bad}", f"{server.url}/good")
    assert store.path(blob.sha256).read_bytes() == content(2 * MEBI + 3)
    assert names(store) == {blob.sha256}


@pytest.mark.parametrize(
    ("bad", "words"), [("missing", "404"), ("wrong", "another SHA-256"), ("long", "2097159 bytes, 2097155 are wanted")]
)
def test_no_good_server(server: Server, store: BlobStore, bad: str, words: str) -> None:
    blob = server.add(content(2 * MEBI + 3))
    with pytest.raises(BlobUnavailable, match=words):
        fetch(store, [blob], f"{server.url}/{bad}")
    assert blob.sha256 not in names(store)
    assert len(server.requests) <= 10


def test_nobody_listens(server: Server, store: BlobStore) -> None:
    blob = server.add(b"here")
    with pytest.raises(BlobUnavailable, match="refused"):
        fetch(store, [blob], "http://127.0.0.1:9/blobs")
    assert fetch(store, [blob], "http://127.0.0.1:9/blobs", f"{server.url}/good") == 4


def test_a_file_of_the_wrong_length_is_fetched_again(server: Server, store: BlobStore) -> None:
    blob = server.add(content(1000))
    store.path(blob.sha256).write_bytes(b"short")
    assert fetch(store, [blob], f"{server.url}/good") == 1000
    assert store.path(blob.sha256).read_bytes() == content(1000)


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1_234_567)
        byte = file.read(1)[0]
        file.seek(1_234_567)
        file.write(bytes([byte ^ 8]))


def test_a_blob_whose_bits_have_flipped_is_fetched_again(server: Server, store: BlobStore) -> None:
    blobs = [server.add(content(3 * MEBI + 7)), server.add(content(2 * MEBI, 1))]
    fetch(store, blobs, f"{server.url}/good")
    flip_a_bit(store.path(blobs[0].sha256))
    progress: list[tuple[int, int]] = []
    fetched = store.fetch(blobs, [f"{server.url}/good"], on_progress=lambda *stats: progress.append(stats))
    assert fetched == blobs[0].size_bytes
    assert store.path(blobs[0].sha256).read_bytes() == content(3 * MEBI + 7)
    assert len(server.requests) == 3
    assert len(progress) > 6, "also while it reads what is there"
    assert progress[-1] == (5 * MEBI + 7, 5 * MEBI + 7)


def test_a_blob_whose_bits_have_flipped_is_not_used_when_nobody_has_another(server: Server, store: BlobStore) -> None:
    blob = server.add(content(2 * MEBI))
    fetch(store, [blob], f"{server.url}/good")
    flip_a_bit(store.path(blob.sha256))
    with pytest.raises(BlobUnavailable):
        fetch(store, [blob], f"{server.url}/missing")
    assert blob.sha256 not in names(store)


def test_in_the_background_nothing_is_read_again(server: Server, store: BlobStore) -> None:
    blob = server.add(content(2 * MEBI))
    fetch(store, [blob], f"{server.url}/good")
    flip_a_bit(store.path(blob.sha256))
    assert store.fetch([blob], [], on_progress=lambda done, total: None, background=True) == 0


def test_what_is_read_again_can_be_cancelled(server: Server, store: BlobStore) -> None:
    blob = server.add(content(4 * MEBI))
    fetch(store, [blob], f"{server.url}/good")

    def cancel(done_bytes: int, total_bytes: int) -> None:
        raise LoadCancelled("released")

    with pytest.raises(LoadCancelled):
        store.fetch([blob], [], on_progress=cancel)
    assert names(store) == {blob.sha256}


def test_what_progress_raises_ends_the_transfer_and_keeps_what_arrived(server: Server, store: BlobStore) -> None:
    blob = server.add(content(4 * MEBI))

    arrived_bytes = 0

    def cancel(done_bytes: int, total_bytes: int) -> None:
        nonlocal arrived_bytes
        arrived_bytes = done_bytes
        if done_bytes >= 2 * MEBI:
            raise InterruptedLoad

    class InterruptedLoad(Exception):
        pass

    with pytest.raises(InterruptedLoad):
        store.fetch([blob], [f"{server.url}/good"], on_progress=cancel)
    assert names(store) == {f"{blob.sha256}.part"}
    assert fetch(store, [blob], f"{server.url}/good") == 4 * MEBI - arrived_bytes


# --- storage ----------------------------------------------------------------------------------------------------------


def test_the_blobs_used_longest_ago_make_room(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 3500)
    blobs = [server.add(content(1000, seed)) for seed in range(5)]
    for age, blob in enumerate(blobs[:3]):
        fetch(store, [blob], f"{server.url}/good")
        os.utime(store.path(blob.sha256), (age, age))
    fetch(store, [blobs[3], blobs[0]], f"{server.url}/good")
    assert names(store) == {blobs[0].sha256, blobs[2].sha256, blobs[3].sha256}, "what is wanted is kept, however old"
    fetch(store, [blobs[4], blobs[1]], f"{server.url}/good")
    assert {blobs[4].sha256, blobs[1].sha256} <= names(store)
    assert store.used_bytes() <= 3500


def test_more_than_the_limit_is_refused_with_the_figure(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 1500)
    blobs = [server.add(content(1000, seed)) for seed in range(2)]
    with pytest.raises(StorageFull, match="500 bytes more than the storage limit of 1500 bytes"):
        fetch(store, blobs, f"{server.url}/good")
    assert server.requests == []


def test_waits_longer_after_each_failure(server: Server, tmp_path: Path) -> None:
    pauses_s: list[float] = []
    store = BlobStore(tmp_path / "blobs", limit_bytes=1000, sleep=pauses_s.append)
    blob = server.add(content(1000))
    with pytest.raises(BlobUnavailable):
        fetch(store, [blob], f"{server.url}/missing", f"{server.url}/wrong")
    assert len(pauses_s) == len(server.requests) / 2 - 1 == 4, "one pause for all servers together"
    for pause_s, longest_s in zip(pauses_s, (0.25, 0.5, 1, 2), strict=True):
        assert longest_s / 2 <= pause_s <= longest_s
    assert all(out_of_step(back_off_s(5, doublings, 300)) <= 300 for doublings in (0, 6, 10_000))
    assert out_of_step(back_off_s(5, 10_000, 300)) >= 150


def test_a_cancelled_transfer_does_not_wait_and_try_again(server: Server, store: BlobStore) -> None:
    cancelled = False

    def report(done: int, total: int) -> None:
        nonlocal cancelled
        if cancelled:
            raise LoadCancelled("released")
        cancelled = True

    blob = server.add(content(1000))
    with pytest.raises(LoadCancelled):
        store.fetch([blob], [f"{server.url}/missing"], on_progress=report)
    assert len(server.requests) == 1


def test_room_is_made_from_what_nobody_needs_first(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 3000)
    url = f"{server.url}/good"
    used, kept, spare, first, second, third = (server.add(content(1000, seed)) for seed in range(6))
    store.use("segment", [used])
    store.stand_by("main", [kept])
    fetch(store, [used, kept, spare], url)
    for age, blob in enumerate((used, kept, spare)):
        os.utime(store.path(blob.sha256), (age, age))
    assert store.standby_bytes() == 1000
    fetch(store, [first], url)
    assert names(store) == {used.sha256, kept.sha256, first.sha256}
    store.use("next segment", [first, second])
    fetch(store, [first, second], url)
    assert names(store) == {used.sha256, first.sha256, second.sha256}, "a segment comes before standby units"
    assert store.standby_bytes() == 0
    fetch(store, [first, second, third], url)
    assert names(store) == {first.sha256, second.sha256, third.sha256}


def test_a_transfer_in_the_background_deletes_only_what_nobody_needs(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 3000)
    url = f"{server.url}/good"
    used, kept, spare, first, second = (server.add(content(1000, seed)) for seed in range(5))
    store.use("segment", [used])
    fetch(store, [used, kept, spare], url)
    store.stand_by("main", [kept, first, second])
    store.fetch([first], [url], on_progress=lambda done, total: None, background=True)
    assert names(store) == {used.sha256, kept.sha256, first.sha256}
    with pytest.raises(StorageFull):
        store.fetch([second], [url], on_progress=lambda done, total: None, background=True)
    assert names(store) == {used.sha256, kept.sha256, first.sha256}
    store.use("segment", ())
    store.fetch([second], [url], on_progress=lambda done, total: None, background=True)
    assert names(store) == {kept.sha256, first.sha256, second.sha256}
    store.stand_by("main", ())
    assert not store.is_standby(kept.sha256)


def test_a_transfer_in_the_background_is_not_tried_again(server: Server, store: BlobStore) -> None:
    blob = server.add(content(1000))
    with pytest.raises(BlobUnavailable):
        store.fetch([blob], [f"{server.url}/missing"], on_progress=lambda done, total: None, background=True)
    assert len(server.requests) == 1


def test_a_partial_file_counts_once(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 1000)
    blob = server.add(content(1000))
    (store.directory / f"{blob.sha256}.part").write_bytes(content(1000)[:900])
    assert fetch(store, [blob], f"{server.url}/good") == 100


def test_partial_files_of_other_blobs_make_room_too(server: Server, tmp_path: Path) -> None:
    store = open_store(tmp_path, 1000)
    (store.directory / f"{'0' * 64}.part").write_bytes(bytes(900))
    blob = server.add(content(1000))
    fetch(store, [blob], f"{server.url}/good")
    assert names(store) == {blob.sha256}


def test_what_was_in_use_last_is_deleted_last(server: Server, tmp_path: Path) -> None:
    """Not what was fetched last: reading a file leaves no trace on most systems."""
    store = open_store(tmp_path, 3500)
    old, new, other, next_one = (server.add(content(1000, seed)) for seed in range(4))
    fetch(store, [old, new, other], f"{server.url}/good")
    for age, blob in enumerate((old, new, other)):
        os.utime(store.path(blob.sha256), (age, age))
    store.use("segment", [old])
    store.use("segment", ())
    fetch(store, [next_one], f"{server.url}/good")
    assert names(store) == {old.sha256, other.sha256, next_one.sha256}


def test_a_limit_that_has_become_lower_is_kept_at_once(server: Server, tmp_path: Path) -> None:
    blobs = [server.add(content(1000, seed)) for seed in range(4)]
    store = open_store(tmp_path, 4000)
    fetch(store, blobs, f"{server.url}/good")
    for age, blob in enumerate(blobs):
        os.utime(store.path(blob.sha256), (age, age))
    store.give_back()
    assert store.used_bytes() == 4000
    store = open_store(tmp_path, 2500)
    store.use("segment", [blobs[0]])
    store.stand_by("main", [blobs[1]])
    store.give_back()
    assert names(store) == {blobs[0].sha256, blobs[1].sha256}, "the oldest that nobody needs"
    store = open_store(tmp_path, 500)
    store.use("segment", [blobs[0]])
    store.stand_by("main", [blobs[1]])
    store.give_back()
    assert store.used_bytes() == 2000, "what is needed stays"


def test_nothing_is_given_back_while_a_transfer_makes_room_for_itself(server: Server, tmp_path: Path) -> None:
    fetch(open_store(tmp_path), [server.add(content(1000))], f"{server.url}/good")
    store, blob = open_store(tmp_path, 500), server.add(content(400, 1))

    def tidy_up(done: int, total: int) -> None:
        store.give_back()
        assert names(store) >= {path.name for path in store.directory.glob("*.part")}

    store.fetch([blob], [f"{server.url}/good"], on_progress=tidy_up)
    assert names(store) == {blob.sha256}


def test_used_bytes_while_files_come_and_go(store: BlobStore) -> None:
    """The heartbeat asks while a load renames files."""
    stop = threading.Event()

    def rename() -> None:
        while not stop.is_set():
            part = store.directory / "x.part"
            part.write_bytes(b"1234")
            part.rename(store.directory / "x")
            (store.directory / "x").unlink()

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        assert {store.used_bytes() for _ in range(3000)} <= {0, 4, 8}
    finally:
        stop.set()
        thread.join()


def test_what_is_there_for_a_moment_is_no_blob_and_swept_at_the_start(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, limit_bytes=100)
    blob = tmp_path / ("a" * 64)
    blob.write_bytes(bytes(50))
    moment = tmp_path / f"codes{SCRATCH_SUFFIX}"
    moment.write_bytes(bytes(1000))
    assert store.used_bytes() == 50
    store.give_back()
    assert blob.exists()
    assert moment.exists()
    assert BlobStore(tmp_path, limit_bytes=100).used_bytes() == 50
    assert not moment.exists()
