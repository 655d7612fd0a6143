"""What counts as this machine."""

from __future__ import annotations

import pytest

from broker.address import parse_broker_url
from broker.security import is_exposed, is_loopback


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "127.8.8.8", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_what_leaves_this_machine_in_plain_is_exposed() -> None:
    urls = ["mqtt://192.168.1.5", "mqtts://192.168.1.5", "mqtt://127.0.0.2", "mqtt://[::1]", "mqtt://example.org"]
    assert [is_exposed(parse_broker_url(url)) for url in urls] == [True, False, False, False, True]
