"""OpenAI's own client holds conversations with the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from broker.mqtt import MqttBus
from orchestrator.gateway.server import serving_gateway
from tests.support.members import as_member, as_orchestrator
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import answer_text, make_birth
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with SecuredBroker() as broker:
        def connect(name, role):
            bus = MqttBus(as_orchestrator(broker.url) if role == "orchestrator" else as_member(broker.url, name, role), client_id=name)
            bus.connect()
            return bus
        with ScriptedFleet(connect("nodes", "orchestrator"), [make_birth(n) for n in "abcd"]) as fleet, connect("orchestrator", "orchestrator") as bus:
            service = ScriptedService(bus, tmp_path_factory.mktemp("s"), TinyStore())
            try:
                with serving_gateway(as_member(broker.url, "web", "operator"), host="127.0.0.1", port=0, access=None) as server:
                    yield openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
            finally:
                service.end()


def test_models(client):
    print(client.models.list())


def test_chat(client):
    r = client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hello"}], max_tokens=8)
    print(r)
    assert r.choices[0].message.content


def test_stream(client):
    r = client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hello"}], max_tokens=8, stream=True, stream_options={"include_usage": True}, n=3)
    for c in r: print(c)
