"""Models that come to the fleet's host as files: what is taken, what is refused, and what is left of them."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.gateway.access import Guard, key_access
from orchestrator.gateway.access_key import key_text
from orchestrator.gateway.host_routes import UPLOAD_PATH
from orchestrator.model.archive.index import INDEX_FILE
from orchestrator.model.gguf_header import MAGIC
from orchestrator.model.store import ModelStore
from tests.support.gateway_world import HOST, GatewayWorld
from tests.support.polling import DEADLINE_S

FILE = {"content-type": "application/octet-stream"}
MB = 1 << 20
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture
def hosted(gateway_world: GatewayWorld, tmp_path: Path) -> Iterator[str]:
    """The root of a gateway on a fleet's host."""
    with gateway_world.gateway(home=tmp_path) as root:
        yield root


@pytest.fixture(scope="module")
def archive(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "tiny.tar"
    tiny_store.export("tiny", path)
    return path.read_bytes()


def upload(root: str, name: str, content: Any, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{root}{UPLOAD_PATH}", params={"name": name}, content=content, headers=FILE | headers, timeout=DEADLINE_S
    )


def state(root: str) -> dict[str, Any]:
    shown: dict[str, Any] = httpx.get(f"{root}/api/fleet/models").json()["adding"]
    return shown


def end(root: str) -> dict[str, Any]:
    """What was said once it was over."""
    while (now := state(root))["goes_on"]:
        time.sleep(0.02)
    return now


def left(home: Path) -> list[Path]:
    return list((home / "uploads").glob("*"))


@contextlib.contextmanager
def half_sent(root: str, name: str, size_bytes: int = 4 * MB) -> Iterator[http.client.HTTPConnection]:
    """A connection on which half of a file has come."""
    connection = http.client.HTTPConnection(HOST, int(root.rpartition(":")[2]), timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.putrequest("POST", f"{UPLOAD_PATH}?name={name}")
        for header, value in (FILE | {"content-length": str(size_bytes)}).items():
            connection.putheader(header, value)
        connection.endheaders()
        connection.send(MAGIC + bytes(size_bytes // 2 - len(MAGIC)))
        while not any("receiving the file" in line for line in (state(root) or {"lines": []})["lines"]):
            time.sleep(0.02)
        yield connection


def test_an_archive_is_added_and_the_file_is_gone(hosted: str, tmp_path: Path, archive: bytes) -> None:
    answered = upload(hosted, "tiny.tar", archive)
    assert (answered.status_code, answered.json()) == (200, {"source": "tiny.tar"})
    said = end(hosted)
    assert (said["source"], said["ok"], said["was_here"]) == ("tiny.tar", True, False), said
    assert any(line.startswith("tiny: llama, 4 blocks") for line in said["lines"])
    assert ModelStore(tmp_path / "models").names() == ("tiny",)
    assert left(tmp_path) == []
    assert upload(hosted, "again.tar", archive).status_code == 200
    said = end(hosted)
    assert (said["ok"], said["was_here"], "tiny is here already" in said["lines"][-1]) == (True, True, True), said


@pytest.mark.parametrize(("name", "content"), [("x.gguf", MAGIC + bytes(5000)), ("x.tar", INDEX_FILE.encode() * 100)])
def test_a_file_that_is_no_model_is_one_line(hosted: str, tmp_path: Path, name: str, content: bytes) -> None:
    assert upload(hosted, name, content).status_code == 200
    said = end(hosted)
    assert not said["ok"]
    assert said["lines"][-1].startswith(f"Error: {name}")
    assert str(tmp_path) not in "".join(said["lines"])
    assert left(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"GG", b"PK" + bytes(3 * MB)], ids=["empty", "short", "long"])
def test_a_file_that_begins_otherwise_is_not_even_taken(hosted: str, tmp_path: Path, content: bytes) -> None:
    refused = upload(hosted, "x.gguf", content)
    assert (refused.status_code, refused.json()["error"][:24]) == (422, "x.gguf is no GGUF file: ")
    assert left(tmp_path) == []
    assert not state(hosted)["goes_on"]


@pytest.mark.parametrize(
    "name", ["", "model", "x.bin", "../x.gguf", "a/b.gguf", "-x.gguf", "x.gguf.exe", 200 * "x" + ".tar"]
)
def test_names_that_are_none(hosted: str, name: str) -> None:
    refused = upload(hosted, name, MAGIC)
    assert (refused.status_code, refused.json()["error"].startswith("send a .gguf file")) == (422, True)


def test_what_is_said_of_a_body_has_to_be_right(hosted: str, tmp_path: Path) -> None:
    assert upload(hosted, "x.gguf", MAGIC, **{"content-type": "application/json"}).status_code == 415
    assert upload(hosted, "x.gguf", iter([MAGIC])).status_code == 411
    assert upload(hosted, "x.gguf", MAGIC, origin="http://evil.example").status_code == 403
    assert state(hosted) is None
    assert left(tmp_path) == []


def test_a_file_may_be_so_long_and_nothing_else(gateway_world: GatewayWorld, tmp_path: Path) -> None:
    with gateway_world.gateway(home=tmp_path, upload_bytes=8 * MB) as root:
        refused = upload(root, "x.gguf", bytes(8 * MB + 1))
        assert refused.status_code == 413
        told = (
            "the file is longer than 8.4 MB, the most that is taken here: add it on the fleet's host, linguabus model"
        )
        assert refused.json()["error"] == f"{told} add FILE"
        assert upload(root, "x.gguf", MAGIC + bytes(8 * MB - 4)).status_code == 200
        assert not end(root)["ok"]
        assert httpx.post(f"{root}/api/fleet/models/add", content=bytes(5 * MB)).status_code == 413


def test_elsewhere_nothing_is_taken(root: str) -> None:
    refused = upload(root, "x.gguf", MAGIC)
    assert (refused.status_code, "host" in refused.json()["error"]) == (409, True)


def test_who_only_asks_sends_none(gateway_world: GatewayWorld, tmp_path: Path) -> None:
    keys = {"notebook": "one", "owner": "two"}
    guard = Guard(key_access(lambda name, key: keys.get(name) == key), lambda name: name == "owner")
    with gateway_world.gateway(guard=guard, home=tmp_path) as root:
        for name, status in (("notebook", 403), ("owner", 422)):
            key = f"Bearer {key_text(name, keys[name])}"
            assert upload(root, "x.gguf", b"nothing", authorization=key).status_code == status
        assert upload(root, "x.gguf", b"nothing").status_code == 401


def test_without_room_it_does_not_begin_and_does_not_go_on(
    hosted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = [300 * MB, 300 * MB]
    usage = DiskUsage(0, 0, 200 * MB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free_bytes.pop()) if free_bytes else usage)
    refused = upload(hosted, "x.gguf", MAGIC + bytes(3 * MB))
    assert (refused.status_code, "make room" in refused.json()["error"]) == (507, True)
    assert free_bytes == []
    assert upload(hosted, "x.gguf", MAGIC + bytes(3 * MB)).status_code == 507
    assert left(tmp_path) == []
    assert "make room" in state(hosted)["lines"][-1]


def test_one_comes_at_a_time_and_can_be_cancelled(hosted: str, tmp_path: Path) -> None:
    with half_sent(hosted, "x.gguf") as connection:
        assert state(hosted)["goes_on"]
        assert upload(hosted, "y.gguf", MAGIC).status_code == 409
        assert httpx.post(f"{hosted}/api/fleet/models/add", json={"source": "demo"}).status_code == 409
        assert httpx.post(f"{hosted}/api/fleet/models/cancel", json={}).status_code == 200
        answer = connection.getresponse()
        assert (answer.status, b"x.gguf was cancelled" in answer.read()) == (409, True)
    assert left(tmp_path) == []
    assert not state(hosted)["goes_on"]


def test_of_one_that_breaks_off_nothing_stays(hosted: str, tmp_path: Path) -> None:
    with half_sent(hosted, "x.gguf"):
        pass
    said = end(hosted)
    assert (said["ok"], said["lines"][-1]) == (False, "Error: it broke off")
    assert left(tmp_path) == []


def test_a_gateway_that_ends_leaves_nothing(gateway_world: GatewayWorld, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(gateway_world.gateway(home=tmp_path))
        with half_sent(root, "x.gguf"):
            stack.close()
    assert left(tmp_path) == []


def test_what_a_killed_gateway_left_is_removed_at_the_start(gateway_world: GatewayWorld, tmp_path: Path) -> None:
    folder = tmp_path / "uploads" / "upload-dead"
    folder.mkdir(parents=True)
    (folder / "x.gguf").write_bytes(MAGIC)
    with gateway_world.gateway(home=tmp_path):
        assert left(tmp_path) == []
