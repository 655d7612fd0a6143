"""``linguabus api`` and ``linguabus key``, as processes in a fleet."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from orchestrator.model.store import ModelStore
from tests.support.bus_recorder import until
from tests.support.fleet_world import FleetWorld
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def world(home: Path, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(home, tiny_store, {"owner": "operator"}, model="tiny") as world:
        yield world


def linguabus(home: Path, *arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator.cli", "--home", str(home), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


@contextmanager
def api(home: Path, *options: str) -> Iterator[str]:
    """A gateway's root; it ends by SIGTERM, without a complaint."""
    command = [sys.executable, "-m", "orchestrator.cli", "--home", str(home), "api", "--port", "0", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield line.split()[2].removesuffix("/v1")
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, err) == (0, ""), out


def models(root: str, key: str | None = None, **options: object) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.get(f"{root}/v1/models", headers=headers, timeout=DEADLINE_S, **options)  # type: ignore[arg-type]


def test_programs_of_this_machine_need_no_key(world: FleetWorld, home: Path) -> None:
    world.members["owner"].save(home / "credential.json")
    with api(home) as root:
        until("a plan", lambda: [model["id"] for model in models(root).json()["data"]] == ["tiny"])


def test_a_key_is_good_until_it_is_revoked(world: FleetWorld, home: Path) -> None:
    told = linguabus(home, "key", "tablet", "--operator", "--page", "https://192.0.2.5:8480/")
    assert (told.returncode, told.stderr.splitlines()[-1]) == (0, "the page asks for it: https://192.0.2.5:8480/")
    wrong = linguabus(home, "key", "tablet", "--again", "--page", "192.0.2.5")
    assert (wrong.returncode, "https://HOST:PORT" in wrong.stderr) == (2, True)
    made = linguabus(home, "key", "notebook", "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    taken = linguabus(home, "key", "notebook")
    assert (taken.returncode, "already" in taken.stderr) == (2, True)
    assert linguabus(home, "key", "owner", "--again").returncode == 2
    with api(home, "--keys") as root:
        assert models(root, key).status_code == 200
        assert models(root).status_code == 401
        again = linguabus(home, "key", "notebook", "--again").stdout.strip()
        assert models(root, key).status_code == 401
        assert models(root, again).status_code == 200
        assert "notebook" in linguabus(home, "members").stdout
        assert linguabus(home, "revoke", "notebook").returncode == 0
        assert models(root, again).status_code == 401


def test_an_operators_key_commands_and_invites_on_the_host(world: FleetWorld, home: Path) -> None:
    world.members["owner"].save(home / "credential.json")
    keys = {}
    for name, options in (("reader", ()), ("browser", ("--operator",))):
        made = linguabus(home, "key", name, "--json", *options)
        assert made.returncode == 0, made.stderr
        keys[name] = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    with api(home, "--keys") as root:
        page = httpx.get(f"{root}/", headers={"accept": "text/html"}, timeout=DEADLINE_S)
        assert (page.status_code, "linguabus" in page.text) == (200, True)
        for name, status in (("reader", 403), ("browser", 200)):
            body = {"name": "phone", "phone": True}
            url = f"{root}/api/fleet/members/invite"
            invited = httpx.post(url, json=body, headers=keys[name], timeout=DEADLINE_S)
            assert invited.status_code == status, invited.text
        assert invited.json()["line"].startswith("curl -sSfk --pinnedpubkey sha256//")
        rights = httpx.get(f"{root}/api/fleet/rights", headers=keys["browser"], timeout=DEADLINE_S).json()
        assert rights == {
            "caller": "browser", "commands": True, "models": True, "members": True, "upload_bytes": 64 << 30,
        }  # fmt: skip
    assert linguabus(home, "revoke", "phone").returncode == 0


def test_a_key_is_of_no_use_on_the_broker_or_for_model_parts(world: FleetWorld, home: Path) -> None:
    name, _, key = linguabus(home, "key", "web").stdout.strip().removeprefix("lb-").rpartition(".")
    assert f"{name}:" not in (world.fleet.broker_folder / "passwords").read_text()
    assert f"user {name}\n" not in (world.fleet.broker_folder / "roles").read_text()
    with world.fleet.register() as register:
        assert register.admits(name, key, ("api",))
        assert not register.admits(name, key)


def test_beyond_this_machine_it_speaks_tls_and_asks_for_a_key(world: FleetWorld, home: Path) -> None:
    tls = ssl.create_default_context(cadata=world.fleet.authority)
    tls.check_hostname = False
    with api(home, "--host", "0.0.0.0") as root:
        assert root.startswith("https://")
        port = root.rpartition(":")[2]
        assert models(f"https://127.0.0.1:{port}", verify=tls).status_code == 401
        with pytest.raises(httpx.TransportError):
            models(f"http://127.0.0.1:{port}")


def test_without_a_fleet_there_are_no_keys(tmp_path: Path) -> None:
    refused = linguabus(tmp_path, "api", "--keys")
    assert (refused.returncode, "linguabus init" in refused.stderr) == (2, True)
    refused = linguabus(tmp_path, "key", "notebook")
    assert refused.returncode == 2
