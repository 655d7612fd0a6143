"""The orchestrator's HTTP server among clients that mean harm: real sockets, an attack per test."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import itertools
import selectors
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.http_access import Access
from orchestrator.service.http_limits import HttpLimits
from orchestrator.service.http_server import HttpServer, reachable_urls
from schemas.system_limits import allow_many_files
from tests.support.certificates import CertificateFiles, write_certificate
from tests.support.polling import DEADLINE_S

CONTENT = bytes(range(250)) * 1200
NAME = hashlib.sha256(CONTENT).hexdigest()
PATH = f"{BLOBS_PATH}/{NAME}"
HOST = b"Host: x\r\n"
BLOB = f"GET {PATH} HTTP/1.1\r\n".encode() + HOST
KEY = "correct"
FLOOD = 1300
_sources = itertools.count(1)


def admit(name: str, key: str) -> bool:
    return (name, key) == ("phone", KEY)


async def count_body(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "blobs"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret")
    (folder / hashlib.sha256(b"secret").hexdigest()).symlink_to(secret)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[HttpServer]:
    routes = [*blob_routes(folder), Route("/enrol", count_body, methods=["POST"])]
    with HttpServer(routes, host="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(folder: Path) -> Iterator[HttpServer]:
    with HttpServer(blob_routes(folder, Access(admit)), host="127.0.0.1") as running:
        yield running


@contextlib.contextmanager
def connected(server: HttpServer, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    address = (server.host, server.port)
    with socket.create_connection(address, timeout=DEADLINE_S, source_address=(source, 0)) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    """All that comes; a reset is an end like any other."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
    return bytes(received)


def raw(server: HttpServer, request: bytes) -> bytes:
    """What is answered to these bytes until the server closes, which it is to do."""
    with connected(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        return until_closed(connection)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def ask(
    server: HttpServer, path: str = PATH, method: str = "GET", source: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=DEADLINE_S, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


@pytest.fixture
def source() -> str:
    """An address of this machine that no other test has failed from."""
    return f"127.0.1.{next(_sources)}"


def basic(name: str, key: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{key}".encode()).decode()


# Slow clients


def test_a_flood_of_half_open_connections_keeps_no_node_from_fetching(server: HttpServer) -> None:
    allow_many_files()
    request = BLOB + b"X-Slow: "
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        begun_s = time.monotonic()
        for _ in range(FLOOD):
            attacker = stack.enter_context(socket.socket())
            attacker.setblocking(False)
            attacker.connect_ex((server.host, server.port))
            selector.register(attacker, selectors.EVENT_READ)
        alive, dribbled_s = FLOOD, 0.0
        fetched = None
        while alive > 64:
            assert time.monotonic() - begun_s < DEADLINE_S
            if time.monotonic() - dribbled_s >= 1:
                dribbled_s = time.monotonic()
                for key in list(selector.get_map().values()):
                    with contextlib.suppress(OSError):
                        key.fileobj.send(request[:1])  # type: ignore[union-attr]
                request = request[1:]
                fetch_s = time.monotonic()
                fetched = ask(server, source="127.0.0.2")
                assert time.monotonic() - fetch_s < 5
            for key, _ in selector.select(0.1):
                selector.unregister(key.fileobj)
                alive -= 1
        assert fetched is not None
        assert (fetched[0], fetched[2]) == (200, CONTENT)
        assert alive == 64
        assert ask(server, source="127.0.0.2")[2] == CONTENT
    wait_until_nothing_is_held(server)
    assert ask(server)[2] == CONTENT  # the attacker's address has room again


def test_connections_are_limited_in_all(folder: Path) -> None:
    limits = HttpLimits(connections=3, connections_per_address=2)
    with HttpServer(blob_routes(folder), host="127.0.0.1", limits=limits) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server, source)) for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2")]
        for source in ("127.0.0.1", "127.0.0.2"):
            with connected(server, source) as refused:
                assert until_closed(refused) == b""
        held[0].sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        assert status_of(until_closed(held[0])) == 404
        assert ask(server)[0] == 200


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET", BLOB, b"POST /enrol HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n1"],
    ids=["nothing", "request line", "head", "body"],
)
def test_a_request_that_does_not_end_is_given_up(folder: Path, begun: bytes) -> None:
    routes = [Route("/enrol", count_body, methods=["POST"])]
    with (
        HttpServer(routes, host="127.0.0.1", limits=HttpLimits(request_s=0.3)) as server,
        connected(server) as connection,
    ):
        connection.sendall(begun)
        assert until_closed(connection) == b""


def test_dribbling_buys_no_time(folder: Path) -> None:
    with (
        HttpServer([], host="127.0.0.1", limits=HttpLimits(request_s=0.5)) as server,
        connected(server) as connection,
    ):
        begun_s = time.monotonic()
        connection.settimeout(0.1)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun_s < DEADLINE_S:
                connection.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        assert time.monotonic() - begun_s < 10


def test_an_unused_connection_is_closed(folder: Path) -> None:
    limits = HttpLimits(idle_s=1)
    with HttpServer(blob_routes(folder), host="127.0.0.1", limits=limits) as server, connected(server) as connection:
        connection.sendall(BLOB + b"\r\n")
        assert until_closed(connection).endswith(CONTENT)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
def test_a_client_that_stops_reading_is_given_up(tmp_path: Path, tls: bool, ending: bytes) -> None:
    content = bytes(32 << 20)  # more than the kernel's buffers take
    name = hashlib.sha256(content).hexdigest()
    (tmp_path / name).write_bytes(content)
    context = server_context(write_certificate(tmp_path, "first")) if tls else None
    limits = HttpLimits(stalled_s=0.4)
    with (
        HttpServer(blob_routes(tmp_path), host="127.0.0.1", tls=context, limits=limits) as server,
        connected(server) as plain,
    ):
        connection = trusting_nobody().wrap_socket(plain) if tls else plain
        connection.sendall(f"GET {BLOBS_PATH}/{name} HTTP/1.1\r\n".encode() + HOST + ending + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        wait_until_nothing_is_held(server)
        with contextlib.suppress(ssl.SSLError):
            assert len(until_closed(connection)) < len(content)
        connection.close()


def test_a_slow_reader_that_goes_on_gets_everything(tmp_path: Path) -> None:
    content = bytes(12 << 20)
    name = hashlib.sha256(content).hexdigest()
    (tmp_path / name).write_bytes(content)
    limits = HttpLimits(stalled_s=1, request_s=0.5, idle_s=1)
    with (
        HttpServer(blob_routes(tmp_path), host="127.0.0.1", limits=limits) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.connect((server.host, server.port))
        connection.sendall(f"GET {BLOBS_PATH}/{name} HTTP/1.0\r\n\r\n".encode())
        received, begun_s = 0, time.monotonic()
        while data := connection.recv(1 << 17):
            received += len(data)
            if time.monotonic() - begun_s < 2:
                time.sleep(0.02)  # a slow client is what is tested
        assert received > len(content)


# bodies that are written to a disk as they come


async def count_pieces(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(sum([len(piece) async for piece in request.stream()])))


async def refuse_file(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("no", status_code=403)


@contextlib.contextmanager
def taking_files(**limits: float) -> Iterator[HttpServer]:
    """A server that takes a megabyte at /file and at /refused, and 64 KB elsewhere."""
    routes = [
        Route("/file", count_pieces, methods=["POST"]),
        Route("/refused", refuse_file, methods=["POST"]),
        Route("/enrol", count_body, methods=["POST"]),
    ]
    limited = HttpLimits(streamed={"/file": 1 << 20, "/refused": 1 << 20}, **limits)  # type: ignore[arg-type]
    with HttpServer(routes, host="127.0.0.1", limits=limited) as server:
        yield server


def head_of(path: str, size_bytes: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\n".encode() + HOST + f"Content-Length: {size_bytes}\r\n\r\n".encode()


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer on a connection that goes on."""
    with http.client.HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


def test_a_file_may_be_long_and_take_its_time() -> None:
    size_bytes = 1 << 20
    with taking_files(request_s=0.3) as server, connected(server) as connection:
        connection.sendall(head_of("/file", size_bytes))
        for _ in range(8):
            connection.sendall(bytes(size_bytes // 8))
            time.sleep(0.1)  # a slow client is what is tested
        assert answer_on(connection) == (200, str(size_bytes).encode())
        connection.sendall(head_of("/enrol", 3) + b"123")  # the next one on it is as any other
        assert answer_on(connection) == (200, b"3")
        connection.sendall(head_of("/enrol", size_bytes))
        assert status_of(until_closed(connection)) == 413


def test_a_file_that_stops_coming_is_given_up() -> None:
    with taking_files(stalled_s=0.2) as server, connected(server) as connection:
        connection.sendall(head_of("/file", 1000) + b"1")
        assert until_closed(connection) == b""


@pytest.mark.parametrize(("path", "size_bytes", "status"), [("/file", (1 << 20) + 1, 413), ("/refused", 1 << 20, 403)])
def test_who_sends_a_file_that_is_refused_hears_why(path: str, size_bytes: int, status: int) -> None:
    """Although it reads only behind all that it sends."""
    with taking_files() as server, connected(server) as connection:
        connection.sendall(head_of(path, size_bytes) + bytes(size_bytes))
        assert answer_on(connection)[0] == status
        connection.sendall(head_of("/enrol", 3) + b"123")
        assert answer_on(connection) == (200, b"3")


def test_what_follows_a_refusal_is_not_listened_to_for_ever() -> None:
    with taking_files(linger_s=0.2) as server, connected(server) as connection:
        connection.sendall(head_of("/refused", 1000) + b"1")
        assert status_of(until_closed(connection)) == 403


def wait_until_nothing_is_held(server: HttpServer) -> None:
    """Wait until the server has closed all connections."""
    end_s = time.monotonic() + DEADLINE_S
    while server.connections:
        assert time.monotonic() < end_s
        time.sleep(0.02)


# TLS


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def trusting(files: CertificateFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.certificate))


def trusting_nobody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fetch_over_tls(server: HttpServer, context: ssl.SSLContext) -> bytes:
    connection = http.client.HTTPSConnection(server.host, server.port, timeout=DEADLINE_S, context=context)
    with contextlib.closing(connection):
        connection.request("GET", PATH)
        return connection.getresponse().read()


def test_https_and_another_certificate_while_it_runs(folder: Path, tmp_path: Path) -> None:
    first, second, third = (write_certificate(tmp_path, name) for name in ("first", "second", "third"))
    context = server_context(first)
    with HttpServer(blob_routes(folder), host="127.0.0.1", tls=context) as server:
        kept = http.client.HTTPSConnection(server.host, server.port, timeout=DEADLINE_S, context=trusting(first))
        with contextlib.closing(kept):
            kept.request("GET", PATH)
            assert kept.getresponse().read() == CONTENT
            context.load_cert_chain(*second)
            assert fetch_over_tls(server, trusting(second)) == CONTENT
            with pytest.raises(ssl.SSLCertVerificationError):
                fetch_over_tls(server, trusting(first))
            with pytest.raises(ssl.SSLError):
                server.load_certificate(third.certificate, first.key)
            assert fetch_over_tls(server, trusting(second)) == CONTENT
            server.load_certificate(*third)
            assert fetch_over_tls(server, trusting(third)) == CONTENT
            kept.request("GET", PATH)
            assert kept.getresponse().read() == CONTENT


def test_plain_http_and_old_tls_are_not_spoken(folder: Path, tmp_path: Path) -> None:
    context = server_context(write_certificate(tmp_path, "first"))
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with HttpServer(blob_routes(folder), host="127.0.0.1", tls=context) as server:
        assert b"HTTP" not in raw(server, BLOB + b"\r\n")
        old = trusting_nobody()
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            fetch_over_tls(server, old)
        assert fetch_over_tls(server, trusting_nobody()) == CONTENT


def test_a_handshake_that_does_not_end_is_given_up_and_counted(folder: Path, tmp_path: Path) -> None:
    context = server_context(write_certificate(tmp_path, "first"))
    limits = HttpLimits(handshake_s=0.5, connections_per_address=2)
    with HttpServer(blob_routes(folder), host="127.0.0.1", tls=context, limits=limits) as server:
        with connected(server) as half, connected(server) as silent, connected(server) as third:
            half.sendall(b"\x16\x03\x01\x02")
            assert [until_closed(one) for one in (third, half, silent)] == [b""] * 3
        assert fetch_over_tls(server, trusting_nobody()) == CONTENT


def test_urls_say_https() -> None:
    assert reachable_urls("192.0.2.7", 80, ("127.0.0.1", 1883), tls=True) == ("https://192.0.2.7:80",)
    assert reachable_urls("::1", 80, ("::1", 1883), tls=True) == ("https://[::1]:80",)


# Who may fetch


def test_the_right_key_lets_in(guarded: HttpServer) -> None:
    assert ask(guarded, Authorization=basic("phone", KEY))[2] == CONTENT
    assert ask(guarded, Authorization=basic("phone", KEY).replace("Basic", "bAsIc"), Range="bytes=0-9")[0] == 206


@pytest.mark.parametrize(
    "header",
    [
        None, basic("phone", "wrong"), basic("tablet", KEY), basic("", ""), "", "Basic", "Basic ", "Basic =", "Basic ä",
        "Basic !!!!", "Basic cGhvbmU=", "Basic /////w==", "Bearer x", "Basic " + "A" * 8000, basic("phone", "\0"),
        basic("phone", f"{KEY}:"), basic("phone", KEY).rstrip("=")[:-1],
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [PATH, f"{BLOBS_PATH}/{'0' * 64}", f"{BLOBS_PATH}/x"])
def test_everything_else_gets_the_same_401(guarded: HttpServer, source: str, header: str | None, path: str) -> None:
    status, headers, body = ask(guarded, path, source=source, **({} if header is None else {"Authorization": header}))
    assert (status, body, headers["www-authenticate"]) == (401, b"", 'Basic realm="linguabus"')
    assert set(headers) == {"date", "content-length", "content-type", "www-authenticate"}


def test_two_keys_are_none(guarded: HttpServer) -> None:
    line = f"Authorization: {basic('phone', KEY)}\r\n".encode()
    assert status_of(raw(guarded, BLOB + line + line + b"Connection: close\r\n\r\n")) == 401


def test_guessing_is_limited_and_others_behind_the_address_go_on(guarded: HttpServer, source: str) -> None:
    assert ask(guarded, source=source, Authorization=basic("phone", KEY))[0] == 200
    for number in range(20):
        assert (
            ask(guarded, source=source, Authorization=basic("phone", str(number)), X_Forwarded_For=f"10.0.0.{number}")[
                0
            ]
            == 401
        )
    status, headers, body = ask(guarded, source=source, Authorization=basic("phone", "21"), X_Forwarded_For="10.0.0.21")
    assert (status, body) == (429, b"")
    assert 1 <= int(headers["retry-after"]) <= 60
    assert ask(guarded, source=source, Authorization=basic("phone", KEY))[0] == 200  # it was right before
    assert ask(guarded, source="127.0.0.2", Authorization=basic("phone", "22"))[0] == 401
    assert ask(guarded, source=source)[0] == 401


# By the book


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", BLOBS_PATH, f"{BLOBS_PATH}/", f"{PATH}/", f"{PATH}%00", f"{PATH}%0a",
        f"{BLOBS_PATH}/{NAME.upper()}", f"{BLOBS_PATH}/..", f"{BLOBS_PATH}/%2e%2e/secret",
        f"{BLOBS_PATH}/..%2f..%2fsecret", f"{BLOBS_PATH}/%252e%252e%252fsecret", f"{BLOBS_PATH}/%00",
        f"{BLOBS_PATH}/%ff", f"{BLOBS_PATH}/..%5csecret", f"/{PATH}",
        f"{BLOBS_PATH}/{hashlib.sha256(b'secret').hexdigest()}",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_store(server: HttpServer, path: str) -> None:
    status, headers, body = ask(server, path)
    assert (status, body) == (404, b"Not Found")
    assert set(headers) == {"date", "content-length", "content-type"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_told_which_ones_there_are(server: HttpServer, method: str) -> None:
    status, headers, _ = ask(server, method=method)
    assert (status, set(headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def test_head_is_get_without_the_body(server: HttpServer) -> None:
    _, get_headers, _ = ask(server)
    status, headers, body = ask(server, method="HEAD", Range="bytes=0-9")
    assert (status, body) == (200, b"")
    assert headers | {"date": ""} == get_headers | {"date": ""}


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4", "bytes=" + ",".join(["0-"] * 90), "bytes=-", "bytes=", "bytes=5-2", "bytes=a-b",
        "bytes=1_0-20", "bytes=0x1-5", "bytes=+1-5", "bytes=0-" + "9" * 5000, "bytes", "lines=0-1", "bytes = 0 - 1",
        "bytes=--1",
    ],
)  # fmt: skip
def test_absurd_ranges_are_ignored(server: HttpServer, asked: str) -> None:
    status, headers, body = ask(server, Range=asked)
    assert (status, body) == (200, CONTENT)
    assert "content-range" not in headers


def test_a_second_range_header_is_no_range(server: HttpServer) -> None:
    answer = raw(server, BLOB + b"Range: bytes=0-1\r\nRange: bytes=3-4\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 200


@pytest.mark.parametrize("asked", [f"bytes={len(CONTENT)}-", "bytes=-0", "bytes=999999999999999999-"])
def test_a_range_of_nothing(server: HttpServer, asked: str) -> None:
    status, headers, body = ask(server, Range=asked)
    assert (status, body, headers["content-range"]) == (416, b"", f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"X: " + b"a" * 20_000 + b"\r\n", 431),
        (b"".join(b"X-%d: a\r\n" % number for number in range(100)), 431),
        (b"X: " + b"a" * 300_000, 400),
        (b"Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Content-Length: 5, 6\r\n", 400),
        (b"Content-Length: -5\r\n", 400),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"Host: y\r\n", 400),
        (b"X: a\rb\r\n", 400),
        (b"X: a\0b\r\n", 400),
        (b"Content-Length: 65537\r\n", 413),
    ],
)
def test_heads_that_are_too_large_or_ambiguous(server: HttpServer, headers: bytes, status: int) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    with connected(server) as connection:
        connection.sendall(BLOB + headers + b"\r\n0\r\n\r\n" + smuggled)
        # A server that closes while it is still sent something resets; what it said comes first.
        answer = connection.recv(1 << 16)
        answer += until_closed(connection)
    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()


def test_the_same_length_twice_is_one_length(server: HttpServer) -> None:
    lengths = b"Content-Length: 5\r\nContent-Length: 5\r\n"
    enrol = b"POST /enrol HTTP/1.1\r\n" + HOST + lengths + b"\r\n12345"
    answer = raw(server, enrol + b"GET /next HTTP/1.0\r\n\r\n")
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404"]


def test_chunks_in_http_1_0_are_refused(server: HttpServer) -> None:
    assert status_of(raw(server, b"POST /enrol HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")) == 400


def test_http_1_0_is_answered_once(server: HttpServer) -> None:
    answer = raw(server, f"GET {PATH} HTTP/1.0\r\n\r\n".encode() * 2)
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(CONTENT)


def test_pipelined_requests_are_answered_in_order(server: HttpServer) -> None:
    last = BLOB + b"Range: bytes=0-9\r\nConnection: close\r\n\r\n"
    answer = raw(server, b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n" + BLOB.replace(b"GET", b"HEAD") + b"\r\n" + last)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"404", b"200", b"206"]


@pytest.mark.parametrize(
    "line",
    [f"GET http://x{PATH} HTTP/1.1", "GET http://elsewhere/ HTTP/1.1", "CONNECT x:1 HTTP/1.1", "OPTIONS * HTTP/1.1"],
)
def test_it_is_no_proxy(server: HttpServer, line: str) -> None:
    assert status_of(raw(server, line.encode() + b"\r\n" + HOST + b"\r\n")) == 400


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 99])
def test_what_is_no_http(server: HttpServer, sent: bytes) -> None:
    answer = raw(server, sent)
    assert status_of(answer) == 400
    assert b"Traceback" not in answer


def test_an_upgrade_is_not_taken(server: HttpServer) -> None:
    upgrade = b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n"
    assert status_of(raw(server, BLOB + upgrade)) == 200


def test_a_body_of_a_get_is_ignored(server: HttpServer) -> None:
    answer = raw(server, BLOB + b"Content-Length: 5\r\n\r\nhello" + b"GET /next HTTP/1.0\r\n\r\n")
    assert status_of(answer) == 200
    assert answer.count(b"HTTP/1.1 404") == 1


@pytest.mark.parametrize("path", ["/enrol", PATH])
def test_a_body_without_an_end_is_not_read_on(server: HttpServer, path: str) -> None:
    method = "POST" if path == "/enrol" else "GET"
    head = f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(head)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 64 << 20:
                connection.sendall(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                sent += 0x1000
        assert sent < 64 << 20
