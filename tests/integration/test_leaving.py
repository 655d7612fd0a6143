"""A device leaves its fleet by itself, and joins again under the same name."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.credential import FILE, Credential
from broker.errors import LeavingFailed
from broker.joining import join
from broker.leaving import leave
from orchestrator import cli
from orchestrator.model.store import ModelStore
from schemas.invitation import Invitation
from tests.support.fleet_world import FleetWorld
from tests.support.nodes import NodeProcess, start_node
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT
from tests.support.served_fleet import served_fleet


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[FleetWorld]:
    with served_fleet(tmp_path_factory.mktemp("fleet"), tiny_store, {"phone": "node", "ann": "client"}) as served:
        yield served


def owner(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_node", "--home", str(home), *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def members(world: FleetWorld) -> set[str]:
    with world.fleet.register() as register:
        return {member.name for member in register.members()}


def started(home: Path) -> NodeProcess:
    node = start_node("phone", None, home)
    end_s = time.monotonic() + DEADLINE_S
    while "registered: it waits for layers" not in node.log():
        assert time.monotonic() < end_s, node.log()
        assert node.process.poll() is None, node.log()
        time.sleep(0.02)
    return node


def test_who_leaves_is_no_member_keeps_nothing_and_may_join_again_under_its_name(
    world: FleetWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.members["phone"].save(tmp_path / FILE)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "weights").write_bytes(bytes(3_000_000))
    node = started(tmp_path)
    try:
        left = owner(tmp_path, "leave", "--yes", "--forget-weights")
        assert (left.returncode, left.stderr) == (0, "")
        *told, removed = left.stdout.splitlines()
        assert told == ["phone hands its layers over and ends", "phone is no member any more"]
        # What is there and, where a plan was quick, what it has fetched.
        assert re.fullmatch(r"[3-9] MB of model parts are removed", removed)
        assert node.process.wait(DEADLINE_S) == 0
    finally:
        node.end()
    assert "phone" not in members(world)
    assert {path.name for path in tmp_path.iterdir()} == {"node.lock", "node.log"}
    assert not leave(world.members["phone"])
    assert cli.run(["--home", str(world.fleet.path.parent), "invite", "phone"]) == 0
    join(Invitation.parse(capsys.readouterr().out.split()[-1]), tmp_path / FILE)
    assert "phone" in members(world)
    started(tmp_path).end()


def test_a_host_that_is_away_is_told_of_by_its_owner_and_what_is_here_is_removed(
    world: FleetWorld, tmp_path: Path
) -> None:
    member = world.members["ann"]
    replace(member, role="node", http_port=1).save(tmp_path / FILE)
    left = owner(tmp_path, "leave", "--yes")
    assert left.returncode == 1
    assert "run 'linguabus revoke ann' there" in left.stderr.splitlines()[-1]
    assert not (tmp_path / FILE).exists()
    assert "ann" in members(world)


def test_one_ends_its_own_membership_and_nobody_elses(world: FleetWorld) -> None:
    assert not leave(replace(world.members["ann"], key="another"))
    own = Credential.load(world.fleet.path.parent / FILE)
    assert own
    with pytest.raises(LeavingFailed, match="HTTP status 403"):
        leave(own)
    assert {own.name, "ann"} <= members(world)
