"""Frames that arrive twice or far too late change neither the text nor the work of the first stage."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from pathlib import Path

from broker.local_broker import LocalBroker
from orchestrator.model.model import Model
from tests.support.mqtt_packets import Publish
from tests.support.mqtt_proxy import MqttProxy, Send
from tests.support.nodes import running_nodes
from tests.support.ring import Answer, Ring, even_cuts

STAGES = 3
WATCHDOG_S = 0.15
LATE_S = 4 * WATCHDOG_S
TOKENS = 40
PROMPT = list(range(10, 40))
DATA_TOPICS = ("linguabus/v1/segment/#", "linguabus/v1/token/#")


def _answer(broker_url: str, node_url: str, model: Model, home: Path) -> Answer:
    names = [f"node-{index}" for index in range(STAGES)]
    with (
        running_nodes(names, node_url, home, "--watchdog-s", str(WATCHDOG_S)) as nodes,
        Ring(broker_url, model) as ring,
    ):
        cuts = even_cuts(model.manifest.num_units, STAGES)
        ring.deploy({name: nodes[name].home for name in names}, cuts, wire="fp32", context_tokens=128, chunk_tokens=16)
        return ring.ask(PROMPT, TOKENS)


def test_every_frame_twice_and_one_in_ten_late(mosquitto: LocalBroker, tiny_model: Model, tmp_path: Path) -> None:
    undisturbed = _answer(mosquitto.url, mosquitto.url, tiny_model, tmp_path / "undisturbed")
    count = itertools.count(1)
    late = []

    def disturb(publish: Publish) -> Iterable[Send]:
        if next(count) % 10 == 0:
            late.append(publish.topic)
            return [Send(publish, LATE_S, overtake=True)] * 2
        return [Send(publish)] * 2

    with MqttProxy(mosquitto.url) as proxy:
        for topic in DATA_TOPICS:
            proxy.rule(topic, disturb)
        disturbed = _answer(mosquitto.url, proxy.url, tiny_model, tmp_path / "disturbed")

    assert disturbed.ids == undisturbed.ids
    assert len(late) >= TOKENS // 10
    # Every position of prompt and answer but the last token's, which nobody needs to compute, once.
    assert disturbed.timings[0].positions == undisturbed.timings[0].positions == len(PROMPT) + TOKENS - 1
    assert sum(timing.frames_dropped for timing in disturbed.timings.values()) > TOKENS


def test_a_lost_connection_in_mid_answer(mosquitto: LocalBroker, tiny_model: Model, tmp_path: Path) -> None:
    undisturbed = _answer(mosquitto.url, mosquitto.url, tiny_model, tmp_path / "undisturbed")
    count = itertools.count(1)

    with MqttProxy(mosquitto.url) as proxy:

        def cut_once(publish: Publish) -> Iterable[Send]:
            if next(count) == 20:
                threading.Thread(target=proxy.cut).start()  # not from here: rules run inside the proxy's lock
            return [Send(publish)]

        proxy.rule("linguabus/v1/segment/#", cut_once)
        disturbed = _answer(mosquitto.url, proxy.url, tiny_model, tmp_path / "disturbed")
        assert proxy.connections > STAGES

    assert disturbed.ids == undisturbed.ids
    assert disturbed.timings[0].positions == len(PROMPT) + TOKENS - 1
