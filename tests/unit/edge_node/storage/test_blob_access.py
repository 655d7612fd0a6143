"""Whom a node asks for blobs, and what it takes: against a real HTTP server that says and sends what it should not."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_node.errors import BlobUnavailable
from edge_node.storage import blob_access, blob_store
from edge_node.storage.blob_access import BlobAccess
from edge_node.storage.blob_store import BlobStore
from schemas.messages import BlobRef

CONTENT = b"weights" * 1000
BLOB = BlobRef(sha256=hashlib.sha256(CONTENT).hexdigest(), size_bytes=len(CONTENT))


@dataclass
class Server:
    """Answers as it is told to; ``asked`` has paths and headers."""

    answer: Callable[[BaseHTTPRequestHandler], None]
    url: str = ""
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def send(handler: BaseHTTPRequestHandler, *, status: int = 200, body: bytes = CONTENT, **headers: str) -> None:
    """An answer with these headers; ``Content_Length`` stands for that of the name."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], Server]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[BaseHTTPRequestHandler], None]) -> Server:
            server = Server(answer)

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    server.asked.append((self.path, dict(self.headers)))
                    with contextlib.suppress(ConnectionError):
                        answer(self)

                def log_message(self, *args: object) -> None:
                    pass

            http = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            http.daemon_threads = True
            thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(http.shutdown)
            server.url = f"http://127.0.0.1:{http.server_port}"
            return server

        yield start


Serve = Callable[[Callable[[BaseHTTPRequestHandler], None]], Server]


def whole(handler: BaseHTTPRequestHandler) -> None:
    send(handler, Content_Length=str(len(CONTENT)))


def open_store(folder: Path, access: BlobAccess | None = None) -> BlobStore:
    return BlobStore(folder, limit_bytes=1 << 20, access=access, sleep=lambda _: None)


def problem(store: BlobStore, url: str) -> str:
    """The line that a transfer ends with; nothing that is kept is longer than the blob."""
    with pytest.raises(BlobUnavailable) as failed:
        store.fetch([BLOB], [url], on_progress=lambda *_: None)
    assert store.used_bytes() <= BLOB.size_bytes
    assert not store.path(BLOB.sha256).exists()
    line = str(failed.value)
    assert line.isprintable()
    return line


# --- who is asked -----------------------------------------------------------------------------------------------------


def test_a_redirect_is_not_followed(tmp_path: Path, serve: Serve) -> None:
    other = serve(whole)
    for status in (301, 302, 303, 307, 308, 300, 304):
        place = functools.partial(send, status=status, body=b"", Location=f"{other.url}/x", Content_Length="0")
        line = problem(open_store(tmp_path / str(status)), serve(place).url)
        assert f"answers {status}" in line
        assert "another address" in line
    assert other.asked == []


def test_only_hosts_that_are_allowed_are_asked(tmp_path: Path, serve: Serve) -> None:
    server = serve(whole)
    line = problem(open_store(tmp_path / "a", BlobAccess(hosts=("orchestrator.local",))), server.url)
    assert "127.0.0.1 is none of the hosts" in line
    assert problem(open_store(tmp_path / "b", BlobAccess(hosts=("127.0.0.1:1",))), server.url)
    assert problem(open_store(tmp_path / "c", BlobAccess(hosts=())), server.url)
    assert server.asked == []
    for number, host in enumerate(("127.0.0.1", server.url.removeprefix("http://"))):
        store = open_store(tmp_path / f"d{number}", BlobAccess(hosts=frozenset((host,))))
        assert store.fetch([BLOB], [server.url], on_progress=lambda *_: None) == len(CONTENT)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://someone:secret@{host}", "a host, a port and a path"),
        ("http://someone@{host}", "a host, a port and a path"),
        ("http://@{host}", "a host, a port and a path"),
        ("http://{host}/?to=", "a host, a port and a path"),
        ("http://{host}/#", "a host, a port and a path"),
        ("https://{host}", "by http:// only"),
        ("file:///etc/passwd", "by http:// only"),
        ("ftp://{host}", "by http:// only"),
        ("http://", "a host, a port and a path"),
        ("http://[::1", "no address"),
        ("http://127.0.0.1:99999", "no address"),
    ],
)
def test_what_is_no_plain_address_is_not_asked(tmp_path: Path, serve: Serve, url: str, words: str) -> None:
    server = serve(whole)
    assert words in problem(open_store(tmp_path), url.format(host=server.url.removeprefix("http://")))
    assert server.asked == []


def test_with_tls_nothing_is_asked_without() -> None:
    access = BlobAccess(tls=ssl.create_default_context())
    with pytest.raises(BlobUnavailable, match="by https:// only"):
        access.check("http://orchestrator.local/blobs")
    access.check("https://orchestrator.local/blobs")
    named = BlobAccess(hosts=("orchestrator.local:443", "[::1]:8000"), tls=access.tls)
    named.check("https://Orchestrator.local/blobs")
    named.check("https://[::1]:8000/blobs")
    for other in ("https://orchestrator.local:444/blobs", "https://[::1]/blobs", "https://orchestrator.local.evil/"):
        with pytest.raises(BlobUnavailable, match="none of the hosts"):
            named.check(other)


def test_a_credential_goes_along(tmp_path: Path, serve: Serve) -> None:
    server = serve(whole)
    open_store(tmp_path / "a", BlobAccess(authorization="Bearer x")).fetch(
        [BLOB], [server.url], on_progress=lambda *_: None
    )
    open_store(tmp_path / "b").fetch([BLOB], [server.url], on_progress=lambda *_: None)
    assert [headers.get("Authorization") for _, headers in server.asked] == ["Bearer x", None]


# --- what is taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [len(CONTENT) - 1, len(CONTENT) + 1, 1_500_000_000, 0])
def test_another_length_is_not_taken(tmp_path: Path, serve: Serve, told: int) -> None:
    server = serve(lambda handler: send(handler, Content_Length=str(told)))
    store = open_store(tmp_path)
    assert f"would send {told} bytes, {len(CONTENT)} are wanted" in problem(store, server.url)
    assert store.used_bytes() == 0


@pytest.mark.parametrize("headers", [{}, {"Content_Length": "many"}, {"Transfer_Encoding": "chunked"}])
def test_a_body_without_a_length_is_not_read(tmp_path: Path, serve: Serve, headers: dict[str, str]) -> None:
    ended = threading.Event()

    def pour(handler: BaseHTTPRequestHandler) -> None:
        try:
            send(handler, **headers)
            while True:
                handler.wfile.write(bytes(1 << 16))
        finally:
            ended.set()

    store = open_store(tmp_path)
    assert "does not say how many bytes" in problem(store, serve(pour).url)
    assert store.used_bytes() == 0
    assert ended.wait(10)


def test_bytes_behind_the_announced_length_are_not_read(tmp_path: Path, serve: Serve) -> None:
    def pour(handler: BaseHTTPRequestHandler) -> None:
        whole(handler)
        while True:
            handler.wfile.write(bytes(1 << 16))

    store = open_store(tmp_path)
    assert store.fetch([BLOB], [serve(pour).url], on_progress=lambda *_: None) == len(CONTENT)
    assert store.used_bytes() == len(CONTENT)


@pytest.mark.parametrize("told", ["bytes 0-6999/7000", "bytes 100-6999/9000", "bytes 100-200/7000", "100", None])
def test_another_part_than_was_asked_for_is_not_taken(tmp_path: Path, serve: Serve, told: str | None) -> None:
    headers = {"Content_Range": told} if told else {}
    server = serve(
        lambda handler: send(handler, status=206, body=CONTENT[100:], Content_Length=str(len(CONTENT) - 100), **headers)
    )
    store = open_store(tmp_path)
    (tmp_path / f"{BLOB.sha256}.part").write_bytes(CONTENT[:100])
    assert "another part of the file" in problem(store, server.url)


def test_a_server_that_sends_letters_is_left(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_store, "_GRACE_S", 0.05)
    monkeypatch.setattr(blob_store, "_LEAST_RATE", 1_000_000.0)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        send(handler, body=b"", Content_Length=str(len(CONTENT)))
        for at in range(len(CONTENT)):
            handler.wfile.write(CONTENT[at : at + 1])
            time.sleep(0.03)

    assert "bytes in 0 s" in problem(open_store(tmp_path), serve(drip).url)


def test_headers_that_do_not_end_are_left(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_access, "READ_TIMEOUT_S", 0.15)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        while True:
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    began_s = time.monotonic()
    store = open_store(tmp_path)
    with pytest.raises(BlobUnavailable):
        store.fetch([BLOB], [serve(drip).url], on_progress=lambda *_: None, background=True)
    assert time.monotonic() - began_s < 5
