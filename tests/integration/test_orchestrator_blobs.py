"""The blob server over real HTTP: whole files, ranges, names that are none."""

import contextlib
import hashlib
import http.client
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_node.errors import BlobDamaged
from edge_node.storage.blob_store import BlobStore
from orchestrator.errors import AddressInUse
from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.http_server import HttpServer, reachable_urls
from schemas.messages import BlobRef
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

CONTENT = bytes(range(250)) * 1200
NAME = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("served") / "blobs"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    (folder / f"{NAME}.part").write_bytes(b"half")
    (folder / ("f" * 64)).mkdir()
    (folder.parent / "secret").write_text("no")
    with HttpServer(blob_routes(folder), host="127.0.0.1") as running:
        yield running


def fetch(server: HttpServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_a_whole_blob(server: HttpServer) -> None:
    status, headers, body = fetch(server, f"{BLOBS_PATH}/{NAME}")
    assert (status, body) == (200, CONTENT)
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == f'"{NAME}"'
    assert headers["cache-control"].startswith("private,"), "no shared cache may keep what needs a key"
    assert "server" not in headers


def test_head_has_the_length_and_no_body(server: HttpServer) -> None:
    status, headers, body = fetch(server, f"{BLOBS_PATH}/{NAME}", "HEAD")
    assert (status, body, int(headers["content-length"])) == (200, b"", len(CONTENT))


@pytest.mark.parametrize(("asked", "start", "stop"), [("0-99", 0, 100), ("299000-", 299_000, None), ("-10", -10, None)])
def test_a_range(server: HttpServer, asked: str, start: int, stop: int | None) -> None:
    status, headers, body = fetch(server, f"{BLOBS_PATH}/{NAME}", Range=f"bytes={asked}")
    assert (status, body) == (206, CONTENT[start:stop])
    assert headers["content-range"].endswith(f"/{len(CONTENT)}")


def test_a_range_behind_the_end(server: HttpServer) -> None:
    status, headers, _ = fetch(server, f"{BLOBS_PATH}/{NAME}", Range="bytes=300000-")
    assert status == 416
    assert headers["content-range"].endswith(f"*/{len(CONTENT)}")


def test_a_resume_of_another_content_starts_over(server: HttpServer) -> None:
    status, _, body = fetch(server, f"{BLOBS_PATH}/{NAME}", **{"Range": "bytes=10-", "If-Range": '"something else"'})
    assert (status, body) == (200, CONTENT)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        BLOBS_PATH,
        f"{BLOBS_PATH}/",
        f"{BLOBS_PATH}/{'0' * 64}",
        f"{BLOBS_PATH}/{NAME.upper()}",
        f"{BLOBS_PATH}/{NAME}.part",
        f"{BLOBS_PATH}/{NAME[:-1]}",
        f"{BLOBS_PATH}/{'f' * 64}",
        f"{BLOBS_PATH}/../secret",
        f"{BLOBS_PATH}/..%2fsecret",
        f"{BLOBS_PATH}/%2e%2e%2fsecret",
    ],
)
def test_everything_else_is_not_found(server: HttpServer, path: str) -> None:
    status, _, body = fetch(server, path)
    assert (status, body) == (404, b"Not Found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(server: HttpServer, method: str) -> None:
    assert fetch(server, f"{BLOBS_PATH}/{NAME}", method)[0] == 405


def test_requests_before_start_are_answered_after_it(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    server = HttpServer(blob_routes(tmp_path), host="127.0.0.1")
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as early, server:
        early.sendall(f"HEAD {BLOBS_PATH}/{NAME} HTTP/1.0\r\n\r\n".encode())
        assert early.recv(100).startswith(b"HTTP/1.1 200")


def test_a_port_that_is_taken_is_one_line(server: HttpServer) -> None:
    with pytest.raises(AddressInUse, match=f"port {server.port}.*choose another"):
        HttpServer([], host="127.0.0.1", port=server.port)


def test_an_address_that_is_not_ours_is_one_line() -> None:
    with pytest.raises(AddressInUse):
        HttpServer([], host="192.0.2.1")


def test_urls_for_other_machines() -> None:
    assert reachable_urls("127.0.0.1", 80, ("127.0.0.1", 1883)) == ("http://127.0.0.1:80",)
    assert reachable_urls("::1", 80, ("::1", 1883)) == ("http://[::1]:80",)
    everywhere = reachable_urls("0.0.0.0", 80, ("127.0.0.1", 1883))
    assert everywhere[-1] == "http://127.0.0.1:80"
    assert len(set(everywhere)) == len(everywhere)
    assert not any("0.0.0.0" in url for url in everywhere)


MANY_CONNECTIONS = """
import http.client, logging, resource, sys
from pathlib import Path
from orchestrator.service.blobs import blob_routes
from orchestrator.service.http_server import HttpServer
logging.basicConfig(format="%(message)s")
with HttpServer(blob_routes(Path(sys.argv[1])), host="127.0.0.1") as server:
    first = http.client.HTTPConnection("127.0.0.1", server.port)
    first.request("GET", "/")  # afterwards all that serving needs is imported
    first.getresponse().read()
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    print(server.port, flush=True)
    sys.stdin.read()
"""


def test_connections_that_have_to_wait_are_said_once_and_served_later(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_CONNECTIONS, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline())
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            said = process.stderr.readline()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        connection.request("GET", f"{BLOBS_PATH}/{NAME}")
        assert connection.getresponse().status == 404
        connection.close()
        _, more = process.communicate()
    assert re.fullmatch(r"connections have to wait: Too many open files; run `ulimit -n \d+` before .*\n", said)
    assert (process.returncode, more) == (0, "")


def test_a_damaged_file_is_not_given_out_until_it_is_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / NAME
    path.write_bytes(CONTENT[:-1] + b"x")
    store = BlobStore(tmp_path / "node", limit_bytes=1 << 30, sleep=lambda _: pytest.fail("it tries again"))
    blob = BlobRef(sha256=NAME, size_bytes=len(CONTENT))
    with HttpServer(blob_routes(tmp_path), host="127.0.0.1") as server:
        assert fetch(server, f"{BLOBS_PATH}/{NAME}")[0] == 410
        assert fetch(server, f"{BLOBS_PATH}/{NAME}", Range="bytes=10-")[0] == 410
        with pytest.raises(BlobDamaged, match=f"file {NAME[:12]} is damaged: 'linguabus model verify' there says"):
            store.fetch([blob], [f"http://127.0.0.1:{server.port}{BLOBS_PATH}"], on_progress=lambda *_: None)
        assert [record.message.count("is damaged") for record in caplog.records if record.levelname == "ERROR"] == [1]
        path.write_bytes(CONTENT)
        os.utime(path, (1, 1))
        assert store.fetch([blob], [f"http://127.0.0.1:{server.port}{BLOBS_PATH}"], on_progress=lambda *_: None)
