"""Nothing is open to other machines unless it was asked for; limits are said in one line."""

from pathlib import Path
from typing import Any

import pytest

from broker.errors import BadBrokerUrl
from orchestrator.errors import BadSetting, InsecureAddress
from orchestrator.service.config import ServiceConfig


def config(**changes: Any) -> ServiceConfig:
    return ServiceConfig(**{"broker_url": "mqtt://127.0.0.1:1883", "data_dir": Path("data"), **changes})


def test_the_blob_server_stays_on_this_machine_unless_told() -> None:
    with pytest.raises(InsecureAddress, match="--insecure"):
        config(blob_host="0.0.0.0")
    assert config(blob_host="0.0.0.0", insecure=True).blob_host == "0.0.0.0"


def test_a_plain_connection_to_another_machine_must_be_asked_for() -> None:
    with pytest.raises(InsecureAddress, match=r"mqtts://, or add --insecure"):
        config(broker_url="mqtt://192.168.1.5")
    config(broker_url="mqtt://192.168.1.5", insecure=True)
    config(broker_url="mqtts://192.168.1.5")


def test_the_brokers_address_must_be_one() -> None:
    with pytest.raises(BadBrokerUrl):
        config(broker_url="http://127.0.0.1")


@pytest.mark.parametrize(
    "changes",
    [
        {"min_nodes": 0}, {"slots": 0}, {"chunk_tokens": 1}, {"blob_port": 70_000}, {"context_tokens": 1},
        {"memory_margin": 0.95},
    ],
)  # fmt: skip
def test_numbers_outside_their_limits(changes: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match="use a number from"):
        config(**changes)
