"""A member's credential: on disk for its owner alone, and never in what is printed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from broker.credential import Credential
from broker.errors import CredentialUnusable
from orchestrator.identity.authority import make_authority

AUTHORITY = make_authority()[1]
GIVEN = Credential(
    name="phone", role="node", key="secret-key", authority=AUTHORITY, addresses=("192.168.1.5", "fd00::1"),
    http_port=8765,
)  # fmt: skip


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "credential.json"
    GIVEN.save(path)
    assert Credential.load(path) == GIVEN
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["credential.json"]


def test_there_is_none(tmp_path: Path) -> None:
    assert Credential.load(tmp_path / "credential.json") is None


def test_the_key_is_in_nothing_that_is_printed() -> None:
    for thing in (GIVEN, GIVEN.broker(), str(GIVEN.broker())):
        assert "secret-key" not in repr(thing)
        assert "secret-key" not in str(thing)


def test_the_broker_is_known_by_the_fleets_authority_alone() -> None:
    broker = GIVEN.broker()
    assert broker.tls
    assert (broker.username, broker.password, broker.authority) == ("phone", "secret-key", AUTHORITY)
    assert (broker.host, broker.other_hosts, broker.port) == ("192.168.1.5", ("fd00::1",), 8883)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a/b"}, {"name": ""}, {"role": "king"}, {"key": ""}, {"key": 5}, {"authority": "none"},
        {"addresses": []}, {"addresses": ["a b"]}, {"addresses": ["x"] * 17}, {"addresses": "host"},
        {"broker_port": 0}, {"broker_port": "1"}, {"http_port": 70_000}, {"http_port": True},
    ],
)  # fmt: skip
def test_what_is_none_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "credential.json"
    path.write_text(json.dumps({**asdict(GIVEN), **changes}))
    with pytest.raises(CredentialUnusable) as caught:
        Credential.load(path)
    assert "secret-key" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, "x" * 100_000])
def test_damaged_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credential.json"
    path.write_text(text)
    with pytest.raises(CredentialUnusable):
        Credential.load(path)


def test_other_addresses_of_the_same_fleet() -> None:
    assert GIVEN.at("10.0.0.1") == replace(GIVEN, addresses=("10.0.0.1",))
