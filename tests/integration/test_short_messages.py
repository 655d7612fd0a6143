"""Brokers with a small limit, announced or not: nodes and orchestrator work within it, and the text is the same.

In plain text: such limits are those of brokers that somebody else has set up. A fleet's own has none so small.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client import Client, QuestionTooLong
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.timing import Timing
from schemas.messages import PlanConstraints
from tests.support.configured_broker import configured_broker
from tests.support.nodes import running_nodes
from tests.support.services import running_service, wait_until_serving

NAMES = ("alfa", "bravo")
ENDS = (("embed", "alfa"), ("head", "bravo"))
PROMPT = "one two three four five six seven eight nine ten " * 2
LIMIT_BYTES = 8_000
CHUNK_TOKENS = 64


@pytest.mark.parametrize("option", ["max_packet_size", "message_size_limit"])
def test_a_ring_works_within_the_brokers_limit(option: str, tiny_store: ModelStore, tmp_path: Path) -> None:
    with configured_broker(tmp_path, f"{option} {LIMIT_BYTES}", "max_queued_messages 1000") as port:
        url = f"mqtt://127.0.0.1:{port}"
        config = ServiceConfig(
            broker_url=url, data_dir=tmp_path, models_dir=tiny_store.home, timing=Timing(settle_s=0.2, start_s=1.0),
            wire_dtype="fp32", slots=2, model="tiny", min_nodes=2, chunk_tokens=CHUNK_TOKENS,
        )  # fmt: skip
        with running_nodes(NAMES, url, tmp_path) as nodes, running_service(config), Client.connect(url) as client:
            wait_until_serving(client)
            alone = client.ask(prompt=PROMPT, max_tokens=40)
            expected = "".join(alone)
            client.apply(PlanConstraints(objective="throughput", pins=ENDS), timeout_s=60.0)
            plan = client.plan()
            assert [stage.node for stage in plan.stages] == list(NAMES)
            assert plan.chunk_tokens < CHUNK_TOKENS, "a longer one makes too long a message"
            assert "".join(client.ask(prompt=PROMPT, max_tokens=40)) == expected
            with pytest.raises(QuestionTooLong, match=r"message of 1\d,\d{3} bytes, and the broker passes on 7,\d{3}"):
                client.ask(prompt=PROMPT * 100)
            assert all(node.process.poll() is None for node in nodes.values())
            assert not any("connection lost" in node.log() or "not sent" in node.log() for node in nodes.values())
