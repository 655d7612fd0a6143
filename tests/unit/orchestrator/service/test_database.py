"""The database: epochs only grow, history, nodes, interrupted requests, and files that are not ours."""

import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.effects import SaveTokens
from orchestrator.errors import StateUnreadable
from orchestrator.service.database import SCHEMA_VERSION, Database
from schemas.errors import MemberError
from schemas.messages import Epoch, Plan, PlanConstraints, StageRef
from tests.support.plans import plan_of
from tests.support.scripted_nodes import make_submit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state.sqlite3"


def epoch(generation: int, counter: int) -> Epoch:
    return Epoch(generation=generation, counter=counter)


def save_plan(state: Database, pipeline: str, of: Epoch) -> None:
    state.save_plan(of, plan_of(pipeline, of))


def plan_in_force(pipeline: str, of: Epoch) -> Plan:
    return Plan(
        pipeline=pipeline, epoch=of, model="tiny", context_tokens=8, slots=1, wire_dtype="fp16",
        ring=(StageRef(node="a", start=0, stop=6),), starts=(17,),
    )  # fmt: skip


def test_every_start_has_a_generation_of_its_own(path: Path) -> None:
    for expected in (1, 2, 3):
        with Database(path) as state:
            assert state.next_generation("main") == expected
    with Database(path) as state:
        assert state.next_generation("other") == 1


def test_a_generation_goes_above_epochs_that_were_saved(path: Path) -> None:
    with Database(path) as state:
        state.save_epoch("main", epoch(41, 3))
        assert state.next_generation("main") == 42
        assert state.epoch("main") == epoch(42, 0)


def test_epochs_never_go_back(path: Path) -> None:
    with Database(path) as state:
        state.save_epoch("main", epoch(5, 7))
        state.save_epoch("main", epoch(5, 6))
        state.save_epoch("main", epoch(4, 9))
        assert state.epoch("main") == epoch(5, 7)
        assert state.epoch("other") is None


def test_plans_are_kept_newest_first(path: Path) -> None:
    with Database(path) as state:
        for counter in (1, 2, 10):
            save_plan(state, "main", epoch(1, counter))
        save_plan(state, "other", epoch(9, 9))
        assert [plan.epoch for plan in state.plans("main")] == ["1-10", "1-2", "1-1"]
        assert [plan.epoch for plan in state.plans("main", limit=1)] == ["1-10"]
        assert state.plans("main")[0].committed_at > 1.7e9


def test_the_history_of_a_service_has_all_its_pipelines(path: Path) -> None:
    with Database(path) as state:
        for number, pipeline in enumerate(("main", "main-2", "main-x", "main2", "other", "main-11"), start=1):
            save_plan(state, pipeline, epoch(1, number))
        assert [plan.pipeline for plan in state.plans("main")] == ["main-11", "main-2", "main"]


def test_the_history_has_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.service.database._KEPT_PLANS", 3)
    with Database(path) as state:
        for counter in range(10):
            save_plan(state, "main", epoch(1, counter))
        assert [plan.epoch for plan in state.plans("main")] == ["1-9", "1-8", "1-7"]


def test_open_requests_are_kept_with_their_prompt_and_their_tokens(path: Path) -> None:
    begun = [make_submit(number) for number in (1, 2, 3)]
    with Database(path) as state:
        for submit in begun:
            state.begin_request("main", submit)
        state.begin_request("other", make_submit(4))
        state.open_request(begun[0].request, model="tiny", prompt_ids=(7, 8), epoch="3-1")
        state.open_request("unknown", model="tiny", prompt_ids=(7, 8), epoch="3-1")
        tokens = [(begun[0], 0, (1, 2), 0.5), (begun[0], 2, (3,), 0.9), (begun[1], 0, (9,), 0.7)]
        state.add_tokens(SaveTokens(submit.request, *rest) for submit, *rest in tokens)
        state.end_request(begun[1].request)
        state.end_request("unknown")
    with Database(path) as state:
        for _ in range(2):
            first, second = state.requests("main")
            assert (first.submit, first.model, first.prompt_ids, first.epoch) == (begun[0], "tiny", (7, 8), "3-1")
            assert (first.tokens, first.ttft_s) == ((1, 2, 3), 0.5), "the first to be kept is the first token's"
            assert first.age_s >= 0
            assert second == replace(second, submit=begun[2], model="", prompt_ids=(), epoch="", tokens=(), ttft_s=None)


def test_what_a_client_says_of_a_request_s_age_is_part_of_it(path: Path) -> None:
    with Database(path) as state:
        state.begin_request("main", make_submit(age_s=40.0, ttft_s=3.0))
        (saved,) = state.requests("main")
        assert 40.0 <= saved.age_s < 70.0
        assert saved.ttft_s == 3.0


def test_tokens_behind_a_gap_are_made_once_more(path: Path) -> None:
    """They may be others then: what was kept of them is gone. Those that the client had come first."""
    submit = make_submit(answer_ids=(1, 2), answer_model="tiny")
    with Database(path) as state:
        state.begin_request("main", submit)
        state.add_tokens([SaveTokens(submit.request, 2, (3,), 0.5), SaveTokens(submit.request, 4, (5, 6), 0.5)])
    with Database(path) as state:
        assert state.requests("main")[0].tokens == (1, 2, 3)
        state.add_tokens([SaveTokens(submit.request, 3, (4,), 0.5)])
        assert state.requests("main")[0].tokens == (1, 2, 3, 4)


def test_a_request_that_this_version_can_not_read_is_forgotten(path: Path) -> None:
    with Database(path) as state:
        state.begin_request("main", make_submit())
        state._db.execute("UPDATE requests SET submit = ?", (b'{"type": "request.submit", "v": 2}',))
        assert state.requests("main") == ()
        assert state._db.execute("SELECT count(*) FROM requests").fetchone() == (0,)


def test_the_plans_in_force_are_those_that_were_not_taken_down(path: Path) -> None:
    first, second = (plan_in_force("main", epoch(3, counter)) for counter in (1, 2))
    beside, other = (plan_in_force(name, epoch(3, 3)) for name in ("main-2", "other"))
    with Database(path) as state:
        for plan in (first, second, beside, other):
            state.save_running(plan)
    with Database(path) as state:
        assert state.running("main") == (second, beside)
        state.save_running(replace(second, epoch=epoch(3, 4), ring=(), starts=()))
        assert state.running("main") == (beside,)
        state._db.execute("UPDATE running SET plan = x'7b7d'")
        assert state.running("main") == (), "another version's"


def test_requests_that_somebody_else_has_had_since_are_open_in_no_plan(path: Path) -> None:
    opened, waits = make_submit(1), make_submit(2)
    with Database(path) as state:
        state.begin_tenure("main", "aaaa", "")
        for submit in (opened, waits):
            state.begin_request("main", submit)
        state.open_request(opened.request, model="tiny", prompt_ids=(7, 8), epoch="3-1")
        state.begin_tenure("main", "aaab", "aaaa")
        assert [saved.epoch for saved in state.requests("main")] == ["3-1", ""], "it was this database"
        state.begin_tenure("main", "aaac", "")
        assert [saved.epoch for saved in state.requests("main")] == ["3-1", ""], "the broker knows of nobody"
        state.begin_tenure("main", "aaad", "bbbb")
        state.begin_tenure("main", "aaae", "aaad")
        assert [saved.epoch for saved in state.requests("main")] == ["0-0", ""]


def test_a_damaged_file_is_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StateUnreadable, match="move it away") as error:
        Database(path)
    assert "\n" not in str(error.value)


def test_a_newer_database_is_not_touched(path: Path) -> None:
    Database(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StateUnreadable, match="upgrade linguabus"):
        Database(path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnreadable, match="--home"):
        Database(tmp_path / "file" / "state.sqlite3")


def test_drained_nodes(tmp_path: Path) -> None:
    with Database(tmp_path / "state.sqlite3") as state:
        for _ in range(2):
            state.save_drained("a", True)
        state.save_drained("b", True)
        state.save_drained("a", False)
        state.save_drained("c", False)
    with Database(tmp_path / "state.sqlite3") as state:
        assert state.drained() == {"b"}


def test_what_nodes_are_called(path: Path) -> None:
    with Database(path) as state:
        state.save_label("b", "Bob's")
        state.save_label("a", "Anna's phone")
        state.save_label("a", "Anna's old phone")
        state.save_label("b", "")
    with Database(path) as state:
        assert state.labels() == {"a": "Anna's old phone"}


def test_a_file_of_an_earlier_version_gets_what_it_lacks(path: Path) -> None:
    with Database(path) as state:
        state.save_epoch("main", epoch(5, 7))
        with sqlite3.connect(path) as db:
            db.execute("DROP TABLE drained")
            db.execute("DROP TABLE tokens")
            for table in ("labels", "running", "tenures"):
                db.execute(f"DROP TABLE {table}")
            db.execute("ALTER TABLE constraints RENAME COLUMN constraints TO wishes")
            db.execute("""INSERT INTO constraints VALUES ('main', 0, '{"exclude": ["a"], "context_tokens": null}')""")
            db.execute("PRAGMA user_version = 2")
    with Database(path) as state:
        assert (state.drained(), state.running("main")) == (frozenset(), ())
        assert state.epoch("main") == epoch(5, 7)
        assert state.constraints("main") == PlanConstraints(exclude=("a",))
    copy = path.with_name(f"{path.name}.schema-2")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with sqlite3.connect(copy) as kept:
        assert kept.execute("PRAGMA user_version").fetchone() == (2,)
        assert kept.execute("SELECT wishes FROM constraints").fetchone()
    kept.close()
    assert [one.name for one in path.parent.iterdir() if ".schema-" in one.name] == [copy.name]


def test_what_can_not_be_copied_is_not_changed(path: Path) -> None:
    with Database(path) as state:
        state._db.execute("PRAGMA user_version = 2")
    blocked = path.with_name(f"{path.name}.schema-2")
    blocked.mkdir()
    with pytest.raises(StateUnreadable, match="make room"):
        Database(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()
    assert not list(path.parent.glob("*.new"))


def test_a_new_file_and_one_of_this_version_have_no_copy(path: Path) -> None:
    for _ in range(2):
        Database(path).close()
    assert not list(path.parent.glob("*.schema-*"))


def test_a_request_that_an_earlier_version_has_kept_goes_on(path: Path) -> None:
    with Database(path) as state:
        state.begin_request("main", make_submit())
        state._db.execute("ALTER TABLE requests DROP COLUMN ttft_s")
        for table in ("labels", "running", "tenures"):
            state._db.execute(f"DROP TABLE {table}")
        state._db.execute("PRAGMA user_version = 6")
    with Database(path) as state:
        state.add_tokens([SaveTokens(make_submit().request, 0, (1,), 0.5)])
        (saved,) = state.requests("main")
        assert (saved.submit, saved.tokens, saved.ttft_s) == (make_submit(), (1,), 0.5)


def test_what_another_version_wrote_and_this_one_can_not_read_is_left_out_or_said(path: Path) -> None:
    with Database(path) as state:
        for counter in (1, 2):
            save_plan(state, "main", epoch(1, counter))
        with sqlite3.connect(path) as db:
            db.execute("UPDATE plans SET details = '{}' WHERE counter = 2")
            db.execute("""INSERT INTO constraints VALUES ('main', 0, '{"exclude": "a"}')""")
        assert [plan.epoch for plan in state.plans("main")] == ["1-1"]
        with pytest.raises(MemberError, match="exclude: must be a list"):
            state.constraints("main")


def test_what_cant_be_written_is_told_and_stops_nobody(tmp_path: Path) -> None:
    """SQLite's own limit plays the full disk."""
    with Database(tmp_path / "state.sqlite3") as state:
        generation = state.next_generation("main")
        (pages,) = state._db.execute("PRAGMA page_count").fetchone()
        state._db.execute(f"PRAGMA max_page_count = {pages}")
        submit = make_submit(prompt="x" * 20_000)
        state.begin_request("main", submit)
        assert state.failure == f"{state.path} can't be written: database or disk is full"
        state.add_tokens([SaveTokens(submit.request, 0, tuple(range(10_000)), 0.5)])
        assert state.failure
        assert not state._db.in_transaction
        assert state.requests("main") == ()
        state._db.execute(f"PRAGMA max_page_count = {100 * pages}")
        state.begin_request("main", submit)
        assert state.failure == ""
        assert [saved.submit for saved in state.requests("main")] == [submit]
        state.path.unlink()
        state.end_request(submit.request)
        assert "was removed" in state.failure
        state._db.execute("PRAGMA query_only = ON")
        assert state.next_generation("main") == generation + 1
        assert "readonly" in state.failure


def test_a_full_disk_keeps_no_orchestrator_from_starting(path: Path) -> None:
    """Whose database is of this version; the generation goes on even so."""
    with Database(path) as state:
        generation = state.next_generation("main")
    with Database(path) as state:
        state._db.execute("PRAGMA query_only = ON")
        assert state.next_generation("main") == generation + 1
        assert state.failure
