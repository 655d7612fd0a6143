"""Real nodes fetch standby units while they serve; a boundary then moves over them without a download of weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.identity.membership import Membership
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.service.blobs import BLOBS_PATH, blob_routes
from orchestrator.service.config import ServiceConfig
from orchestrator.service.http_access import Access
from orchestrator.service.http_server import HttpServer
from schemas.messages import BlobRef, KeepBlobs
from tests.support import services
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.ring import PIPELINE, Ring
from tests.support.secured_broker import SecuredBroker
from tests.support.services import patient_client, running_service

NAMES = ("alfa", "bravo")
PROMPT = list(range(7, 40))


@pytest.fixture
def blob_url(mosquitto: SecuredBroker, tiny_model: Model) -> Iterator[str]:
    """Of a server for members of the fleet."""
    fleet = mosquitto.members.fleet
    with Membership(fleet, fleet.own_addresses) as membership:
        routes = blob_routes(tiny_model.blobs_folder, Access(membership.admits))
        with HttpServer(routes, host="127.0.0.1", port=0, tls=membership.tls) as http:
            yield f"https://127.0.0.1:{http.port}{BLOBS_PATH}"


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    with running_nodes(NAMES, mosquitto.url, tmp_path) as running:
        yield running


def keep(model: Model, start: int, stop: int, blob_url: str) -> KeepBlobs:
    """The weights of units [start, stop)."""
    blobs = tuple(
        BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in model.manifest.blobs_of(start, stop)
    )
    return KeepBlobs(pipeline=PIPELINE, blobs=blobs, blob_urls=(blob_url,))


def test_a_boundary_moves_over_standby_units_without_a_download(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model, blob_url: str
) -> None:
    homes = {name: node.home for name, node in nodes.items()}
    units = tiny_model.manifest.num_units
    with Ring(mosquitto.url, tiny_model) as ring:
        ring.deploy(homes, [0, 2, units], context_tokens=128, chunk_tokens=16, blob_url=blob_url)
        before = ring.ask(PROMPT, 8)
        standby = keep(tiny_model, 2, 4, blob_url)
        total_bytes = sum(blob.size_bytes for blob in standby.blobs)
        ring.command("alfa", standby)
        ring.wait("standby units", lambda: ring.heartbeats["alfa"].standby_bytes == total_bytes)

        graph = tiny_model.segment(0, 4).graph
        ring.deploy(homes, [0, 4, units], context_tokens=128, chunk_tokens=16, blob_url=blob_url)
        assert ring.ready[0].downloaded_bytes == graph.size_bytes, "the graph of the new segment, no weights"
        assert ring.ask(PROMPT, 8).ids == before.ids

        ring.command("alfa", keep(tiny_model, 0, 0, blob_url))
        ring.wait("an empty list", lambda: ring.heartbeats["alfa"].standby_bytes == 0)
    assert "Traceback" not in nodes["alfa"].log()


def test_a_server_that_is_away_disturbs_nobody(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model, blob_url: str
) -> None:
    homes = {name: node.home for name, node in nodes.items()}
    units = tiny_model.manifest.num_units
    with Ring(mosquitto.url, tiny_model) as ring:
        ring.deploy(homes, [0, 2, units], context_tokens=128, chunk_tokens=16, blob_url=blob_url)
        ring.command("alfa", keep(tiny_model, 2, 4, "https://127.0.0.1:9/blobs"))
        assert len(ring.ask(PROMPT, 8).ids) == 8
        ring.command("alfa", keep(tiny_model, 2, 4, blob_url))
        ring.wait("standby units", lambda: ring.heartbeats["alfa"].standby_bytes > 0)
    assert "Traceback" not in nodes["alfa"].log()


def test_the_orchestrator_has_them_fetched_and_a_new_plan_uses_them(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_store: ModelStore, tiny_model: Model, tmp_path: Path
) -> None:
    config = ServiceConfig(
        broker_url=mosquitto.url, data_dir=tmp_path / "orchestrator", models_dir=tiny_store.home,
        context_tokens=128, slots=2, min_nodes=2,
    )  # fmt: skip
    with (
        running_service(config),
        Ring(mosquitto.url, tiny_model) as ring,
        patient_client(mosquitto.url) as client,
    ):
        ring.wait("nodes", lambda: ring.online.issuperset(nodes))
        apply(client, embed="alfa", **{"0": "alfa", "1-3": "bravo"}, head="bravo")
        ring.wait("standby units", lambda: standby_is_complete(client))
        assert {one.node for one in client.plan().standby} == set(NAMES)

        apply(client, embed="alfa", **{"0-2": "alfa", "3": "bravo"}, head="bravo")
        first, last = client.plan().stages
        assert (first.node, first.stop, last.start) == ("alfa", 4, 4)
        for stage in (first, last):
            graph = tiny_model.segment(stage.start, stage.stop, wire="fp16").graph
            answer = tiny_store.known_answers(tiny_model).of(stage.start, stage.stop)
            assert stage.downloaded_bytes in (0, graph.size_bytes + answer.size_bytes)


def apply(client: Client, **nodes: str) -> None:
    """Have a plan in force that keeps these units on these nodes."""
    services.apply(client, pins=list(nodes.items()))


def standby_is_complete(client: Client) -> bool:
    """Are the plan's standby units all on disk?"""
    kept = client.plan().standby
    return bool(kept) and all(one.node_bytes_on_disk == one.node_bytes > 0 for one in kept)
