"""What Mosquitto reads of a fleet is never older than the register, whoever writes it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from broker.member_key import hash_of, new_key
from orchestrator.identity import broker_files, register
from orchestrator.identity.broker_files import write_broker_files
from tests.support.fleet_world import make_fleet


def test_members_stay_as_they_are_while_the_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a slow process would write a member who was revoked meanwhile into the files again."""
    monkeypatch.setattr(register, "_BUSY_TIMEOUT_S", 0.0)
    fleet = make_fleet(tmp_path)
    with fleet.register() as writing, fleet.register() as another:
        writing.add("phone", "node", hash_of(new_key()))

        def revoke_meanwhile(path: Path, text: str) -> None:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                another.revoke("phone")
            path.write_text(text, "utf-8")

        monkeypatch.setattr(broker_files, "write_private", revoke_meanwhile)
        assert write_broker_files(fleet, writing)
        assert "phone:" in (fleet.broker_folder / "passwords").read_text()
        monkeypatch.undo()
        another.revoke("phone")
        assert write_broker_files(fleet, another)
        assert "phone" not in (fleet.broker_folder / "passwords").read_text()
        assert not write_broker_files(fleet, writing), "both know the same"


def test_the_register_does_not_change_by_being_written_out(tmp_path: Path) -> None:
    """Who looks for changes of others would write it out again and again."""
    fleet = make_fleet(tmp_path)
    with fleet.register() as writing, fleet.register() as looking:
        before = looking.version
        write_broker_files(fleet, writing)
        assert looking.version == before
