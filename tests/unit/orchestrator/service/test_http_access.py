"""Who may fetch, with a clock of the test's own."""

from __future__ import annotations

import base64

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from broker.security import peer_of
from orchestrator.identity.wrong_attempts import MOST_ATTEMPTS, WINDOW_S
from orchestrator.service.http_access import Access


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys() -> dict[str, str]:
    return {"phone": "a", "tablet": "b"}


@pytest.fixture
def access(clock: Clock, keys: dict[str, str]) -> Access:
    return Access(lambda name, key: keys.get(name) == key, clock=clock)


def status(access: Access, name: str, key: str, host: str = "192.0.2.1") -> int:
    header = b"Basic " + base64.b64encode(f"{name}:{key}".encode())
    scope = {"type": "http", "client": (host, 1), "headers": [(b"authorization", header)]}
    try:
        access.check(Request(scope))
    except HTTPException as error:
        return error.status_code
    return 200


def test_an_address_is_held_up_for_a_minute_and_no_longer(access: Access, clock: Clock) -> None:
    assert [status(access, "phone", "x") for _ in range(MOST_ATTEMPTS)] == [401] * MOST_ATTEMPTS
    for _ in range(5):
        clock.now_s += WINDOW_S / 6
        assert (status(access, "phone", "x"), status(access, "tablet", "b")) == (429, 429)
    clock.now_s += WINDOW_S / 6
    assert (status(access, "tablet", "b"), status(access, "phone", "x")) == (200, 401)


def test_a_key_that_is_withdrawn_loses_its_privilege(access: Access, keys: dict[str, str]) -> None:
    assert status(access, "phone", "a") == 200
    for _ in range(MOST_ATTEMPTS):
        status(access, "phone", "x")
    assert status(access, "phone", "a") == 200
    del keys["phone"]
    assert status(access, "phone", "a") == 401
    assert status(access, "phone", "a") == 429


def test_right_attempts_are_not_counted_and_addresses_are_apart(access: Access) -> None:
    assert {status(access, "phone", "a") for _ in range(MOST_ATTEMPTS * 2)} == {200}
    for _ in range(MOST_ATTEMPTS):
        status(access, "phone", "x", "2001:db8::1")
    assert status(access, "tablet", "b", "2001:db8::2") == 429
    assert status(access, "tablet", "b", "2001:db8:0:1::2") == 200


def test_many_addresses_fill_no_memory(access: Access) -> None:
    for number in range(5000):
        status(access, "phone", "x", f"10.0.{number >> 8}.{number & 255}")
    assert len(access.wrong) < 5000


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(host: str, peer: str) -> None:
    assert peer_of(host) == peer
