"""The blob server over real HTTP: whole files, ranges, names that are none."""

import hashlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import AddressInUse
from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.http_server import HttpServer, reachable_urls

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
    connection = http.client.HTTPConnection(server.host, server.port, timeout=10)
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
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as early, server:
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
