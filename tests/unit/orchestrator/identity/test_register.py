"""The register of a fleet: members, invitations, and that tokens are good once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from broker.member_key import hash_of, new_key
from orchestrator.errors import StateUnreadable
from orchestrator.identity.errors import AlreadyMember, DoorShut, InvitationOver, OwnMember, UnknownMember
from orchestrator.identity.register import _SCHEMAS, Register, _hashed

TOKEN, OTHER = b"t" * 16, b"o" * 16


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def register(tmp_path: Path, clock: Clock) -> Register:
    return Register(tmp_path / "register.sqlite3", now=clock)


def test_who_is_invited_joins_once(register: Register) -> None:
    register.invite("phone", "node", TOKEN, 900)
    key = new_key()
    assert register.enrol(TOKEN, hash_of(key)).name == "phone"
    assert register.admits("phone", key)
    with pytest.raises(InvitationOver):
        register.enrol(TOKEN, hash_of(new_key()))
    assert register.admits("phone", key)


def test_who_has_missed_the_answer_asks_again(register: Register) -> None:
    register.invite("phone", "node", TOKEN, 900)
    key_hash = hash_of(new_key())
    assert register.enrol(TOKEN, key_hash) == register.enrol(TOKEN, key_hash)


def test_a_token_ends(register: Register, clock: Clock) -> None:
    register.invite("phone", "node", TOKEN, 900)
    assert [one.is_shut for one in register.invited()] == [False]
    clock.now_s += 900
    with pytest.raises(InvitationOver):
        register.enrol(TOKEN, hash_of("k"))
    assert (register.invited(), register.members()) == ([], [])


def test_the_door_is_shut_for_all_and_opened_again_for_those_who_wait(register: Register, clock: Clock) -> None:
    register.invite("phone", "node", TOKEN, 900)
    register.shut()
    with pytest.raises(DoorShut) as shut:
        register.enrol(TOKEN, hash_of("k"))
    assert (str(shut.value), shut.value.name) == (str(InvitationOver()), "phone")
    assert [(one.name, one.is_shut) for one in register.invited()] == [("phone", True)]
    register.invite("tablet", "node", OTHER, 900)
    assert [(one.name, one.is_shut) for one in register.invited()] == [("phone", True), ("tablet", False)]
    register.permit(60)
    assert [one.open_until - clock.now_s for one in register.invited()] == [60, 900]
    clock.now_s += 60
    with pytest.raises(DoorShut):
        register.enrol(TOKEN, hash_of("k"))
    register.permit(100_000)
    assert [one.open_until - clock.now_s for one in register.invited()] == [840, 840]
    assert register.enrol(TOKEN, hash_of("k")).name == "phone"


def test_an_open_invitation_of_an_older_version_stays_open(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "older.sqlite3"
    with sqlite3.connect(path) as db:
        db.executescript(f"{_SCHEMAS[0]} PRAGMA user_version = 1;")
        db.execute("INSERT INTO invitations VALUES (?, 'phone', 'node', 1900, NULL)", (_hashed(TOKEN),))
    db.close()
    with Register(path, now=clock) as register:
        assert register.enrol(TOKEN, hash_of("k")).name == "phone"
    with sqlite3.connect(tmp_path / "older.sqlite3.schema-1") as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    kept.close()


def test_a_wrong_token_is_good_for_nothing(register: Register) -> None:
    register.invite("phone", "node", TOKEN, 900)
    with pytest.raises(InvitationOver):
        register.enrol(OTHER, hash_of("k"))


def test_a_second_invitation_ends_the_first(register: Register) -> None:
    register.invite("phone", "node", TOKEN, 900)
    register.invite("phone", "node", OTHER, 900)
    with pytest.raises(InvitationOver):
        register.enrol(TOKEN, hash_of("k"))
    assert register.enrol(OTHER, hash_of("k")).name == "phone"


def test_a_member_is_not_invited_by_mistake(register: Register) -> None:
    key = new_key()
    register.add("phone", "node", hash_of(key))
    with pytest.raises(AlreadyMember):
        register.invite("phone", "client", TOKEN, 900)
    register.invite("phone", "node", TOKEN, 900, again=True)
    assert register.admits("phone", key), "until it joins again"
    other = new_key()
    register.enrol(TOKEN, hash_of(other))
    assert (register.admits("phone", key), register.admits("phone", other)) == (False, True)


def test_who_is_revoked_is_nobody(register: Register) -> None:
    key = new_key()
    register.add("phone", "node", hash_of(key))
    register.invite("laptop", "client", TOKEN, 900)
    register.revoke("phone")
    register.revoke("laptop")
    assert not register.admits("phone", key)
    assert not register.invited()
    with pytest.raises(UnknownMember):
        register.revoke("phone")


def test_the_orchestrator_is_nobody_else(register: Register) -> None:
    register.add("orchestrator", "orchestrator", hash_of("k"))
    with pytest.raises(OwnMember):
        register.revoke("orchestrator")
    with pytest.raises(OwnMember):
        register.invite("orchestrator", "node", TOKEN, 900, again=True)


def test_nobody_has_a_key(register: Register) -> None:
    assert not register.admits("nobody", "")
    assert not register.admits("", "")


def test_another_process_sees_a_change(tmp_path: Path, register: Register) -> None:
    with Register(tmp_path / "register.sqlite3") as other:
        before = other.version
        register.add("phone", "node", hash_of("k"))
        assert other.version != before
        assert other.admits("phone", "k")


def test_only_its_owner_reads_it_and_no_secret_is_in_it(tmp_path: Path, register: Register) -> None:
    path, key = tmp_path / "register.sqlite3", new_key()
    assert path.stat().st_mode & 0o777 == 0o600
    register.invite("phone", "node", TOKEN, 900)
    register.enrol(TOKEN, hash_of(key))
    assert key.encode() not in path.read_bytes()
    assert TOKEN not in path.read_bytes()


def test_what_cant_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "register.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StateUnreadable):
        Register(tmp_path / "register.sqlite3")


def test_a_newer_one_is_refused(tmp_path: Path, register: Register) -> None:
    register.close()
    with sqlite3.connect(tmp_path / "register.sqlite3") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateUnreadable, match="newer"):
        Register(tmp_path / "register.sqlite3")


def test_a_key_is_a_membership_and_is_refused_where_one_is(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    register.add_key("notebook", hash_of(key))
    assert register.admits("notebook", key, ("api",))
    assert not register.admits("notebook", key)
    register.add("phone", "node", hash_of(new_key()))
    for taken, again in (("notebook", False), ("phone", False), ("phone", True)):
        with pytest.raises(AlreadyMember):
            register.add_key(taken, hash_of(new_key()), again=again)
    other = new_key()
    register.add_key("notebook", hash_of(other), again=True)
    assert register.admits("notebook", other, ("api",))
    with pytest.raises(OwnMember):
        register.add_key("orchestrator", hash_of(new_key()))
    monkeypatch.setattr("orchestrator.identity.register.MOST_MEMBERS", 2)
    with pytest.raises(AlreadyMember, match="as many members"):
        register.add_key("more", hash_of(new_key()))
