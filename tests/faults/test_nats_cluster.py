"""Where one broker is not enough: a cluster of NATS servers, one of which is killed in the middle of answers.

In plain text: roles are written for Mosquitto, and no fleet has such a broker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from schemas.messages import Sampling
from tests.support.nats_cluster import NatsCluster
from tests.support.nodes import running_nodes
from tests.support.readers import Question, read_through
from tests.support.services import apply, running_orchestrator, wait_until_serving

PINS = [["embed", "a"], ["0-1", "b"], ["2-3", "c"], ["head", "a"]]
SERVE = ("--model", "tiny", "--min-nodes", "3", "--context", "192", "--slots", "4", "--wire", "fp32", "--no-balance")
TOKENS = 120
AWAY_S = 3.0
SLOW = ("--emulate-speed", "0.05")


def answers(cluster: NatsCluster, fault: Callable[[], None]) -> list[list[int]]:
    """Tokens of four answers, greedy and drawn, by clients of two servers; the fault comes when all have begun."""
    questions = [
        Question(f"Once upon {number} times", TOKENS, Sampling(temperature=0.8 * (number % 2), seed=number))
        for number in range(4)
    ]
    return read_through([cluster.url(number % 2) for number in range(4)], questions, fault, 120.0)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_answers_go_on_when_a_server_of_the_cluster_is_killed(tiny_store: ModelStore, tmp_path: Path) -> None:
    """It is the server of the middle node, which finds it again when it has been started again."""
    with (
        NatsCluster(tmp_path) as cluster,
        running_orchestrator(cluster.url(0), tiny_store, tmp_path / "orchestrator", *SERVE),
        running_nodes(["a"], cluster.url(0), tmp_path, *SLOW),
        running_nodes(["c"], cluster.url(1), tmp_path, *SLOW),
        running_nodes(["b"], cluster.url(2), tmp_path, *SLOW),
    ):
        with Client.connect(cluster.url(1)) as client:
            wait_until_serving(client)
            apply(client, pins=PINS)
        undisturbed = answers(cluster, lambda: None)
        assert all(len(ids) > TOKENS // 2 for ids in undisturbed)

        def kill() -> None:
            cluster.kill(2)
            time.sleep(AWAY_S)
            cluster.start(2)

        assert answers(cluster, kill) == undisturbed
