"""A backup of a fleet: whole and secret, or one line that says what is wrong, and a home that is as it was."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.credential import FILE
from orchestrator.cli import cli
from orchestrator.commands.settings import Settings
from orchestrator.identity import backup as backups
from orchestrator.identity import sealed
from orchestrator.identity.backup import Backup
from orchestrator.identity.errors import (
    BackupFailed,
    BackupUnusable,
    HomeTaken,
    NoSealedFile,
    NotOpened,
    OrchestratorRuns,
)
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.service.database import Database
from tests.support.fleet_world import enrol, make_fleet

PASSPHRASE = "Zürich, 8 Uhr"
ADDRESSES = ("192.0.2.5",)
HEADER_BYTES = 48


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "_LOG2_N", 4)
    monkeypatch.setattr(sealed, "_LEAST_LOG2_N", 4)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """That of an orchestrator at work, with a member."""
    home = tmp_path / "host"
    enrol(make_fleet(home), "phone", "node")
    with Database(home / backups.STATE) as state:
        state.next_generation("main")
        state.save_drained("phone", True)
        yield home


def everything(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def restored(home: Path, data: bytes, *, is_replacing: bool = False, **settings: object) -> FleetFolder:
    return backups.restore(Backup.opened(data, PASSPHRASE), home, settings, is_replacing=is_replacing)


def test_a_fleet_comes_back_as_it_was(home: Path, tmp_path: Path) -> None:
    data = Backup.of(home, ADDRESSES).sealed(PASSPHRASE)
    other = tmp_path / "other"
    fleet = restored(other, data, listen="127.0.0.2", addresses=("fleet.example",))
    before = FleetFolder.of(home)
    assert fleet.authority == before.authority
    assert (fleet.settings.listen, fleet.settings.broker_port) == ("127.0.0.2", before.settings.broker_port)
    assert fleet.own_credential() == before.own_credential()  # by the port that is for this machine alone
    with fleet.register() as register, before.register() as old:
        assert register.key_hashes() == old.key_hashes()
    with Database(other / backups.STATE) as state:
        assert state.drained() == {"phone"}
        assert state.next_generation("main") == 2
    assert Backup.opened(data, PASSPHRASE).addresses == ADDRESSES
    assert [path for path in other.rglob("*") if path.is_file() and path.stat().st_mode & 0o077] == []
    assert {path.name for path in other.iterdir()} == {"fleet", FILE, backups.STATE}


def test_nothing_of_it_can_be_read_without_the_passphrase(home: Path) -> None:
    data = Backup.of(home, ADDRESSES).sealed(PASSPHRASE)
    other = Backup.of(home, ADDRESSES).sealed(PASSPHRASE)
    assert data[HEADER_BYTES - 28 : HEADER_BYTES] != other[HEADER_BYTES - 28 : HEADER_BYTES], "salt and nonce are new"
    for wrong in ("", "zürich, 8 Uhr", PASSPHRASE + " "):
        with pytest.raises(NotOpened):
            Backup.opened(data, wrong)
    Backup.opened(data, "Zu\N{COMBINING DIAERESIS}rich, 8 Uhr")  # as another keyboard writes it


@pytest.mark.parametrize("at", [*range(HEADER_BYTES), HEADER_BYTES, -17, -1])
def test_a_bit_that_changed_is_found(at: int) -> None:
    data = bytearray(sealed.seal(b"secret" * 9, PASSPHRASE))
    data[at] ^= 1
    with pytest.raises((NoSealedFile, NotOpened)):
        sealed.unseal(bytes(data), PASSPHRASE)


def test_a_file_can_not_ask_for_all_memory_or_all_day(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sealed.seal(b"secret", PASSPHRASE)
    monkeypatch.setattr(sealed, "_key", lambda *_: pytest.fail("that was tried"))
    for log2_n, r, p in ((63, 8, 1), (19, 8, 1), (1, 8, 1), (14, 255, 1), (14, 8, 255), (14, 0, 1)):
        with pytest.raises(NoSealedFile, match="damaged"):
            sealed.unseal(data[:17] + bytes([log2_n, r, p]) + data[20:], PASSPHRASE)
    with pytest.raises(NoSealedFile, match=r"version 2.*upgrade"):
        sealed.unseal(data[:16] + b"\2" + data[17:], PASSPHRASE)
    for other in (b"", data[:40], b"SQLite format 3\0" + bytes(100)):
        with pytest.raises(NoSealedFile):
            sealed.unseal(other, PASSPHRASE)


def test_what_is_there_is_replaced_only_on_demand_and_only_if_nobody_uses_it(home: Path, tmp_path: Path) -> None:
    data = Backup.of(home, ADDRESSES).sealed(PASSPHRASE)
    before = everything(home)
    with pytest.raises(HomeTaken, match=r"fleet is there already.*--replace"):
        restored(home, data)
    with pytest.raises(OrchestratorRuns, match=r"running.*stop it first"):
        restored(home, data, is_replacing=True)
    assert everything(home) == before
    member = tmp_path / "member"
    member.mkdir()
    (member / FILE).write_text("{}")
    with pytest.raises(HomeTaken, match=FILE):
        restored(member, data)
    other = tmp_path / "other"
    make_fleet(other)
    with Database(other / backups.STATE):
        pass
    (other / "models").mkdir()
    assert restored(other, data, is_replacing=True).authority == FleetFolder.of(home).authority
    assert {path.name for path in other.iterdir()} == {"fleet", "models", FILE, backups.STATE}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fleet/fleet.json", b"{}"),
        ("fleet/authority.key", b"no key"),
        ("fleet/authority.crt", b"no certificate"),
        ("fleet/orchestrator.json", b"{}"),
        ("fleet/register.sqlite3", b""),
        ("fleet/register.sqlite3", b"SQLite format 3\0" + bytes(100)),
        (FILE, b"{"),
    ],
)
def test_what_does_not_fit_together_leaves_the_home_as_it_was(
    home: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    found = Backup.of(home, ADDRESSES)
    wrong = Backup(files={**found.files, name: content}, made_at=0.0, addresses=())
    other = tmp_path / "other"
    make_fleet(other)
    before = everything(other)
    with pytest.raises(BackupUnusable) as caught:
        restored(other, wrong.sealed(PASSPHRASE), is_replacing=True)
    assert "\n" not in str(caught.value)
    assert everything(other) == before


def test_other_files_are_refused(home: Path, tmp_path: Path) -> None:
    found = Backup.of(home, ADDRESSES)
    for files in ({**found.files, "../outside": b"x"}, {FILE: b"{}"}):
        wrong = Backup(files=files, made_at=0.0, addresses=())
        with pytest.raises(BackupUnusable, match="other files"):
            restored(tmp_path / "other", wrong.sealed(PASSPHRASE))
    for content in (b"", b"[]", b"{}", b'{"format": 2}', b"[" * 100_000):
        with pytest.raises(BackupUnusable):
            Backup.opened(sealed.seal(content, PASSPHRASE), PASSPHRASE)


def test_a_move_that_fails_half_way_is_undone(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Backup.of(home, ADDRESSES).sealed(PASSPHRASE)
    other = tmp_path / "other"
    make_fleet(other)
    with Database(other / backups.STATE) as state:
        state.save_drained("tablet", True)
    before = everything(other)
    rename = Path.rename

    def fail_once(self: Path, target: Path) -> Path:
        if self.name == "fleet" and self.parent.name == "new":
            monkeypatch.undo()
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="no space"):
        restored(other, data, is_replacing=True)
    after = everything(other)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == [backups.STATE], "its journal's mode"
    with Database(other / backups.STATE) as state:
        assert state.drained() == {"tablet"}


def test_a_damaged_register_is_not_backed_up_in_silence(home: Path) -> None:
    register = home / backups.REGISTER
    raw = bytearray(register.read_bytes())
    raw[4096 + 8 : 8192] = b"\xff" * (4096 - 8)
    register.write_bytes(raw)
    with pytest.raises(BackupFailed, match="register"):
        Backup.of(home, ADDRESSES)


def test_a_database_that_stays_locked_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_COPY_S", 0.0)
    with closing(sqlite3.connect(home / backups.REGISTER)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BackupFailed, match="locked"):
            Backup.of(home, ADDRESSES)


def test_the_command_line(home: Path, tmp_path: Path) -> None:
    def run(home: Path, *arguments: str, **environment: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["--home", str(home), *arguments], obj=Settings(), env=environment)
        return result.exit_code, result.output if result.exception is None else str(result.exception) + result.output

    file, passphrase = tmp_path / "fleet.backup", tmp_path / "passphrase"
    passphrase.write_text(f"{PASSPHRASE}\r\nnot this\n", "utf-8")
    code, said = run(home, "fleet", "backup", str(file))
    assert code != 0
    assert "--passphrase-file" in said
    assert not file.exists()
    code, said = run(home, "fleet", "backup", str(file), "--passphrase-file", str(passphrase))
    assert (code, "chmod 600" in said, "model export" in said) == (0, True, True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(home, "fleet", "backup", str(file), LINGUABUS_PASSPHRASE="x")[0] != 0
    assert run(home, "fleet", "backup", str(file), "--force", LINGUABUS_PASSPHRASE=PASSPHRASE)[0] == 0
    other = tmp_path / "other"
    code, said = run(other, "fleet", "restore", str(file), LINGUABUS_PASSPHRASE="wrong")
    assert (code != 0, "passphrase is another" in said, other.exists()) == (True, True, False)
    code, said = run(other, "fleet", "restore", str(file), "--address", "host.example", LINGUABUS_PASSPHRASE=PASSPHRASE)
    assert (code, "3 members" in said, "linguabus serve" in said) == (0, True, True)
    assert json.loads((other / "fleet" / "fleet.json").read_text())["addresses"] == ["host.example"]
    assert "linguabus init" in run(tmp_path / "none", "fleet", "backup", str(file), LINGUABUS_PASSPHRASE="x")[1]
    assert (other / "fleet" / "broker" / "passwords").exists()
    third = ("fleet", "restore", str(file), "--listen", "192.0.2.9")
    assert "no address of this machine" in run(tmp_path / "third", *third, LINGUABUS_PASSPHRASE=PASSPHRASE)[1]
    FleetFolder.update(home, replace(FleetFolder.of(home).settings, listen="192.0.2.9"))
    short = run(home, "fleet", "backup", str(file), "--force", LINGUABUS_PASSPHRASE="1234567")
    assert (short[0], "8 characters" in short[1]) == (2, True)
    assert run(home, "fleet", "backup", str(file), "--force", LINGUABUS_PASSPHRASE=PASSPHRASE)[0] == 0
    moved = run(tmp_path / "third", *third[:3], LINGUABUS_PASSPHRASE=PASSPHRASE)
    assert (moved[0], "192.0.2.9, where it listened, is not of this machine" in moved[1]) == (0, True)
    assert "where it listened" not in said
