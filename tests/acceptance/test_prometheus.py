"""Prometheus' own programs: the configurations in docs/monitoring, a real scrape, and what the dashboard asks."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from broker.free_ports import free_port
from broker.tls import server_context
from orchestrator.gateway.access import Guard, key_access
from tests.support.gateway_world import GatewayWorld, gateway_world
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MONITORING = ROOT / "docs" / "monitoring"
HERE, IN_CONTAINERS = MONITORING / "prometheus.yml", MONITORING / "containers" / "prometheus.yml"
QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
OFTEN = "1s"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayWorld]:
    with gateway_world(tmp_path_factory.mktemp("gateway")) as world:
        yield world


def promtool(*arguments: str) -> str:
    """What it prints."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def prometheus(folder: Path, configuration: dict[str, Any]) -> Iterator[str]:
    """A Prometheus that scrapes, by its address."""
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration), "utf-8")
    promtool("check", "config", str(file))
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def until(server: str, query: str) -> str:
    """What promtool prints of a query that has a value by then. Nobody tells when a scrape is over."""
    end_s = time.monotonic() + DEADLINE_S
    said = ""
    while not said.strip():
        assert time.monotonic() < end_s, f"nothing comes of {query}"
        done = subprocess.run(
            ["promtool", "query", "instant", server, query], capture_output=True, text=True, check=False
        )
        said = done.stdout if done.returncode == 0 else ""
        time.sleep(0.1)
    return said


def configured(file: Path, root: str, **tls: str) -> dict[str, Any]:
    """The file's configuration for a gateway at another address, which is asked more often."""
    configuration: dict[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    (job,) = configuration["scrape_configs"]
    job["static_configs"][0]["targets"] = [root.partition("://")[2]]
    job["scrape_interval"] = OFTEN
    assert job.get("scheme", "http") == root.partition("://")[0]
    if tls:
        job["tls_config"] = {**job["tls_config"], **tls}
    return configuration


@pytest.mark.parametrize("file", [HERE, IN_CONTAINERS], ids=["here", "in containers"])
def test_its_check_takes_the_configuration(file: Path) -> None:
    promtool("check", "config", "--syntax-only", str(file))


def test_the_dashboards_queries_of_a_real_scrape(world: GatewayWorld, tmp_path: Path) -> None:
    with world.gateway() as root, prometheus(tmp_path, configured(HERE, root)) as server:
        assert httpx.post(f"{root}/v1/chat/completions", json=QUESTION, timeout=DEADLINE_S).status_code == 200
        assert "=> 1 @" in until(server, 'up{job="linguabus"} == 1')
        assert "=> 6 @" in until(server, "linguabus_tokens_generated_total == 6")
        assert "=> 1 @" in until(server, "linguabus_up")
        assert "=> 4 @" in until(server, "sum(linguabus_node_online)")
        dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text("utf-8"))
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        assert len(queries) > 10
        for query in queries:
            promtool("query", "instant", server, query.replace("$__rate_interval", "1m"))
        labels = promtool("query", "labels", server, "route")
        assert "/v1/chat/completions" in labels


def test_a_scrape_by_tls_as_in_containers(world: GatewayWorld, tmp_path: Path) -> None:
    """No key is asked for, and the certificate is the fleet's."""
    fleet = world.url.members.fleet
    authority = tmp_path / "authority.crt"
    authority.write_text(fleet.authority, "utf-8")
    nobody = key_access(lambda *_: False)
    with world.gateway(guard=Guard(nobody), tls=server_context(fleet.server_file)) as root:
        tls = {"ca_file": str(authority), "server_name": "127.0.0.1"}
        with prometheus(tmp_path, configured(IN_CONTAINERS, root, **tls)) as server:
            assert "=> 1 @" in until(server, 'up{job="linguabus"} == 1')
            assert "=> 1 @" in until(server, "linguabus_up")
