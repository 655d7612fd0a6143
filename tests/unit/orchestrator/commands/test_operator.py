"""node drain, rename, rebalance, top and events, with an orchestrator that says what the test wants."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import cli
from orchestrator.client import Client
from orchestrator.commands import node as node_command
from orchestrator.commands import top as top_command
from orchestrator.commands.top_view import draw
from schemas.contract import load
from schemas.messages import FleetEvent, OverviewReply, encode
from schemas.topics import EVENT
from tests.support.fake_orchestrator import FakeOrchestrator, answer_to
from tests.unit.orchestrator.commands.test_fleet import NODE

EVENTS: list[dict[str, Any]] = [
    {"number": 6, "at_s": 1767225600.25, "pipeline": "main", "kind": "joined", "node": "pi", "text": "node pi is here",
     "warning": False},
    {"number": 7, "at_s": 1767225601.5, "pipeline": "main", "kind": "lost", "node": "pi", "text": "node pi is gone",
     "warning": True},
]  # fmt: skip
PHONE: dict[str, Any] = {
    **NODE, "battery_serving_percent_per_hour": -12.4, "battery_temperature_c": 41.2, "cost_factor": 1.2,
    "rtt_ms": 3.75, "leaving": "", "drained": "", "flags": [], "stages": [],
}  # fmt: skip
PIPELINE: dict[str, Any] = {
    "pipeline": "main", "state": "serving", "reason": "", "model": "tiny", "epoch": "3-1",
    "predicted_tokens_per_s": 30.0, "predicted_tokens_per_s_many": 50.0, "open_requests": 2, "queued_requests": 1,
    "slots": 4, "tokens_per_s": 28.43, "progress": {}, "move": None,
    "stages": [
        {"stage": 0, "node": "kitchen-phone", "start": 0, "stop": 4, "units": "embed, blocks 0-2", "predicted_ms": 4.5,
         "step_ms": 5.25, "rows": 1.5, "queue": 3, "open_requests": 2},
        {"stage": 1, "node": "pi", "start": 4, "stop": 8, "units": "blocks 3-5, head", "predicted_ms": 9.0,
         "step_ms": None, "rows": None, "queue": None, "open_requests": None},
    ],
}  # fmt: skip
TOP: dict[str, Any] = {"pipelines": [PIPELINE], "nodes": [PHONE]}
FIGURES: dict[str, Any] = {
    "decode_ms": 40.0, "tokens_per_s": 25.0, "tokens_per_s_many": 44.0,
    "stages": [{"node": "pi", "start": 0, "stop": 8, "units": "embed, blocks 0-5, head", "decode_ms": 40.0}],
}  # fmt: skip
BETTER: dict[str, Any] = {
    **FIGURES, "decode_ms": 30.0,
    "stages": [{"node": "pi", "start": 0, "stop": 3, "units": "embed, blocks 0-1", "decode_ms": 12.0},
               {"node": "laptop", "start": 3, "stop": 7, "units": "blocks 2-5", "decode_ms": 10.0},
               {"node": "pi", "start": 7, "stop": 8, "units": "head", "decode_ms": 8.0}],
}  # fmt: skip
COMPARED: dict[str, Any] = {
    "pipeline": "main", "epoch": "3-1", "objective": "latency", "now": FIGURES, "best": BETTER, "gain": 0.25,
    "moves": True, "move": {"mode": "copy", "copy_bytes": 3_000_000, "copy_ms": 310.0, "lost_ms": 175.0},
    "reason": "25.0% less time by latency",
}  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    monkeypatch.setattr(node_command, "_ASK_AGAIN_S", 0.0)
    with FakeOrchestrator() as orchestrator:
        monkeypatch.setattr(Client, "connect", orchestrator.connect)
        yield orchestrator


# --- rename -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "words"), [("Anna's phone", "pi is called Anna's phone\n"), ("", "pi is called by its name\n")]
)
def test_rename(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], label: str, words: str) -> None:
    fake.control["rename"] = {"node": "pi", "label": label}
    assert cli.run(["rename", "pi", label]) == 0
    assert [command.arguments for command in fake.commanded] == [{"node": "pi", "label": label}]
    assert capsys.readouterr().out == words


def test_a_label_that_is_too_long_is_not_asked_for(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rename", "pi", 65 * "x"]) == 2
    assert capsys.readouterr().err == "Error: label: has 65 characters, allowed are 0 to 64\n"
    assert fake.commanded == []


def test_nodes_and_top_show_labels(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    named = {**PHONE, "label": "Anna's phone"}
    fake.control["nodes"] = {"nodes": [named, {**PHONE, "node": "tablet"}]}
    assert cli.run(["nodes"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["node", PHONE["node"], "tablet"]
    assert [("called" in rows[0]), ("Anna's phone" in rows[1])] == [True, True]
    assert any(
        f"{PHONE['node']} (Anna's phone)" in line for line in draw(load(OverviewReply, {**TOP, "nodes": [named]}))
    )


# --- node drain -------------------------------------------------------------------------------------------------


def drained(holds: list[str], stays: str = "", reason: str = "an operator drains it") -> dict[str, Any]:
    return {"node": "pi", "drained": reason, "holds": holds, "stays": stays}


def test_drain_waits_until_the_node_is_empty(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["drain"] = drained(["main"])

    def empty_at_the_third() -> None:
        if len(fake.commanded) == 3:
            fake.control["drain"] = drained([])

    fake.on_commanded = empty_at_the_third
    assert cli.run(["node", "drain", "pi"]) == 0
    assert [command.arguments for command in fake.commanded] == 3 * [{"node": "pi", "undo": False}]
    assert capsys.readouterr().out == "pi holds no layers and is given none: stop it whenever you like\n"


def test_drain_says_why_a_node_keeps_its_layers(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["drain"] = drained(["main"], stays="needs 3.1 GB, the fleet has 2.4 GB")
    assert cli.run(["node", "drain", "pi"]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("Error: pi keeps its layers until others can hold them: needs 3.1 GB")


def test_drain_gives_up_waiting(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["drain"] = drained(["main", "main-2"])
    assert cli.run(["node", "drain", "pi", "--timeout", "0.1"]) == 1
    assert "pi still holds layers of main, main-2 after 0.1 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "words"),
    [("", "pi may have layers again"), ("its battery is at 9 %", "no longer drained by you, but is given no layers")],
)
def test_drain_undone(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str], reason: str, words: str) -> None:
    fake.control["drain"] = drained(["main"], reason=reason)
    assert cli.run(["node", "drain", "pi", "--undo"]) == 0
    assert [command.arguments for command in fake.commanded] == [{"node": "pi", "undo": True}]
    assert words in capsys.readouterr().out


def test_an_unknown_node_is_one_line(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["drain"] = "there is no node pi: see linguabus nodes"
    assert cli.run(["node", "drain", "pi"]) == 2
    assert capsys.readouterr().err == "Error: there is no node pi: see linguabus nodes\n"


# --- rebalance --------------------------------------------------------------------------------------------------


def test_rebalance_dry_run_says_what_it_would_give(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["rebalance"] = {"pipelines": [COMPARED]}
    assert cli.run(["rebalance", "--dry-run"]) == 0
    assert fake.commanded[0].arguments == {"dry_run": True}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "epoch 3-1: 25.0% less time by latency"
    assert lines[2].split("  ")[0] == "pi"
    assert "embed, blocks 0-1; head" in lines[2]
    assert lines[2].endswith("20.00")
    assert "laptop" in lines[3]
    assert "answers under way lose about 175 ms: 3 MB of KV rows are copied in 310 ms" in lines[-2]
    assert lines[-1] == "nothing was changed: do it with linguabus rebalance"


@pytest.mark.parametrize(
    ("compared", "changed", "last"),
    [
        ({}, True, "moved"),
        ({"move": None}, False, "nothing was moved"),
        ({"moves": False, "best": None, "reason": "no other plan is possible"}, None, "epoch 3-1: no other plan"),
        ({"now": None, "move": {**COMPARED["move"], "mode": "prefill"}}, True, "moved"),
    ],
)
def test_rebalance_says_what_came_of_it(
    fake: FakeOrchestrator,
    capsys: pytest.CaptureFixture[str],
    compared: dict[str, Any],
    changed: bool | None,
    last: str,
) -> None:
    said = {"pipelines": [{**COMPARED, **compared}]}
    fake.control["rebalance"] = said if changed is None else {**said, "changed": changed}
    assert cli.run(["rebalance"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(last)


def test_rebalance_compares_every_pipeline(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    best = {**COMPARED, "best": None, "moves": False, "reason": "the plan in force is the best one"}
    fake.control["rebalance"] = {"pipelines": [best, {**COMPARED, "pipeline": "main-2"}], "changed": True}
    assert cli.run(["rebalance"]) == 0
    first, second, moved = capsys.readouterr().out.split("\n\n")
    assert first == "main: epoch 3-1: the plan in force is the best one"
    assert second.startswith("main-2: epoch 3-1: 25.0% less time by latency\nnode ")
    assert moved == "moved\n"


def test_rebalance_json(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["rebalance"] = {"pipelines": [COMPARED]}
    assert cli.run(["rebalance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pipelines": [COMPARED]}


# --- plan why ---------------------------------------------------------------------------------------------------

DECISION: dict[str, Any] = {
    "verdict": "stay", "reason": "a gain of 3.0% is below the 5.0% that count", "times": 12, "gain": 0.03,
    "saved_s": 1.0, "cost_s": 0.2, "stages": [], "first_s_ago": 900.0, "last_s_ago": 12.0,
}  # fmt: skip


def test_why_lists_decisions(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    older = {**DECISION, "verdict": "move", "reason": "asked for", "times": 1, "gain": 0.0, "last_s_ago": 7300.0}
    pipeline = {"pipeline": "main", "epoch": "3-1", "stays": "", "decisions": [older, DECISION]}
    down = {"pipeline": "main-2", "epoch": None, "stays": "needs 3.1 GB", "decisions": []}
    fake.control["why"] = {"pipelines": [pipeline, down]}
    assert cli.run(["plan", "why"]) == 0
    title, _, first, second, _, *last = capsys.readouterr().out.splitlines()
    assert title == "main in epoch 3-1"
    assert first.split() == ["2", "h", "ago", "1", "x", "move", "-", "asked", "for"]
    assert second.split()[:7] == ["12", "s", "ago", "12", "x", "stay", "3.0%"]
    assert last == ["main-2 has no plan", "Nothing had to be decided yet.", "The plan stays for now: needs 3.1 GB"]
    assert cli.run(["plan", "why", "--json", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["pipelines"][0]["decisions"] == [DECISION]


# --- events -----------------------------------------------------------------------------------------------------


def test_events_are_lines(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["events"] = {"events": EVENTS}
    assert cli.run(["events", "--limit", "2"]) == 0
    assert fake.commanded[0].arguments == {"limit": 2}
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\S+ \S+ +joined    node pi is here", first)
    assert re.fullmatch(r"\S+ \S+  ! lost      node pi is gone", second)


def test_no_events_yet(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["events"] = {"events": []}
    assert cli.run(["events"]) == 0
    assert capsys.readouterr() == ("", "Nothing has happened yet.\n")


def test_who_follows_events_is_told_when_nobody_is_there_to_tell_any(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.control["events"] = {"events": []}
    fake.patience_s = 0.05
    heard: list[list[FleetEvent]] = [[]]

    def silence(client: Client) -> list[FleetEvent]:
        fake.control.clear()  # it answers nothing any more
        if not heard:
            raise KeyboardInterrupt
        return heard.pop()

    monkeypatch.setattr(Client, "events", silence)
    assert cli.run(["events", "--follow"]) == 130
    assert "no orchestrator answers on mqtt://memory:1883" in capsys.readouterr().err


def test_events_are_followed_each_once(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.control["events"] = {"events": EVENTS}
    new = FleetEvent(pipeline="main", number=1, at_s=1767225700, kind="plan", text="epoch 4-1 is in force")
    told: list[FleetEvent] = [FleetEvent(**EVENTS[1]), new]

    def tell() -> None:
        for event in told:
            fake._bus.publish(EVENT.format(pipeline="main"), encode(event))

    fake.on_commanded = tell
    listen = Client.events

    def then_interrupt(client: Client) -> list[FleetEvent]:
        if not told:
            raise KeyboardInterrupt
        heard = listen(client, 5.0)
        if heard[-1].number == 1:
            told.clear()
        return heard

    monkeypatch.setattr(Client, "events", then_interrupt)
    assert cli.run(["events", "--follow", "--json"]) == 130
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in lines] == [6, 7, 1]
    assert lines[2] == {"number": 1, "at_s": 1767225700, "pipeline": "main", "kind": "plan", "node": None,
                        "text": "epoch 4-1 is in force", "warning": False}  # fmt: skip


# --- trace ------------------------------------------------------------------------------------------------------

STORY = {
    "request": "00000000000000ab",
    "ended": True,
    "left_out": 1,
    "entries": [
        {"after_s": 0.0, "cause": "client cli asked: 1 message, at most 5 tokens", "decisions": ["opened on n1"]},
        {"after_s": 1.25, "cause": "2 tokens from n1", "decisions": []},
    ],
}


def test_a_request_s_story_is_told_cause_by_cause(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["trace"] = STORY
    assert cli.run(["trace", STORY["request"]]) == 0
    assert fake.commanded[0].arguments == {"request": STORY["request"]}
    assert capsys.readouterr().out.splitlines() == [
        "request 00000000000000ab, ended",
        "     0.000 s  client cli asked: 1 message, at most 5 tokens",
        "              -> opened on n1",
        "     1.250 s  2 tokens from n1",
        "(1 entries of the middle were dropped)",
    ]
    assert cli.run(["trace", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STORY


def test_a_request_that_is_none_is_refused_in_a_line(
    fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["trace", "so-so"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert "16" in line


# --- top --------------------------------------------------------------------------------------------------------


def test_top_once_shows_pipelines_and_nodes(fake: FakeOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    fake.control["top"] = TOP
    assert cli.run(["top", "--once"]) == 0
    title, speed, _, first, second, _, _, phone = capsys.readouterr().out.splitlines()
    assert title == "main: tiny, epoch 3-1, serving"
    assert speed == "28.4 tokens/s (30.0 predicted for one request), 2 of 4 requests, 1 waiting"
    assert first.split() == ["0", "kitchen-phone", "embed,", "blocks", "0-2", "5.25", "4.50", "1.5", "3"]
    assert second.split()[-4:] == ["-", "9.00", "-", "-"]
    figures = "online 80 % -12/h 41 900 MB 51 3.8 0 s ago counts 1.2 times"
    assert phone.split() == f"kitchen-phone (Anna's phone) {figures}".split()


def test_top_shows_moves_and_why_not(fake: FakeOrchestrator) -> None:
    move = {"phase": "copying", "to_epoch": "3-2", "units": "blocks 3-5 from pi to laptop", "mode": "copy",
            "copied_bytes": 1_500_000, "waits_for": ["pi"]}  # fmt: skip
    busy = {**PIPELINE, "move": move, "progress": {"pi": {"done_bytes": 4_000_000, "total_bytes": 9_000_000}}}
    down = {**PIPELINE, "epoch": None, "state": "waiting", "reason": "no nodes"}
    odd = {**PHONE, "drained": "an operator drains it", "flags": ["its clock went back"], "cost_factor": 1.0}
    lines = draw(answer_to("top", {"pipelines": [busy, {**PIPELINE, "reason": "needs 3.1 GB"}, down], "nodes": [odd]}))
    assert "moving to epoch 3-2: blocks 3-5 from pi to laptop, copying, 1.5 MB of KV rows copied, waits for pi" in lines
    assert "pi fetches its part: 4 of 9 MB" in lines
    assert "stays: needs 3.1 GB" in lines
    assert "main: waiting; no nodes" in lines
    assert lines[-1].endswith("no layers: an operator drains it; not believed: its clock went back")


@pytest.mark.parametrize(("width", "height"), [(200, 50), (40, 50), (10, 4), (1, 1)])
def test_top_fits_the_window(width: int, height: int) -> None:
    silent = {key: None if isinstance(value, float) else value for key, value in PHONE.items()}
    other = {**silent, "heard_s_ago": 9.0, "cost_factor": 1.0, "speed_flops": 6.5e9, "hop_ms": 3.25}
    lines = draw(answer_to("top", {"pipelines": [PIPELINE], "nodes": [PHONE, other]}), width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)


def test_top_without_nodes() -> None:
    assert draw(OverviewReply(pipelines=(), nodes=())) == ["no nodes yet"]


@pytest.mark.parametrize("as_json", [True, False])
def test_top_goes_on_until_ctrl_c(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    fake.control["top"] = TOP
    ask = Client.overview

    def three_times(client: Client) -> OverviewReply:
        if len(fake.commanded) == 3:
            raise KeyboardInterrupt
        return ask(client)

    monkeypatch.setattr(Client, "overview", three_times)
    assert cli.run(["top", "--interval", "0.1", *(["--json"] if as_json else [])]) == 0
    out = capsys.readouterr().out
    if as_json:
        assert [json.loads(line) for line in out.splitlines()] == 3 * [TOP]
    else:
        assert out.count("main: tiny, epoch 3-1, serving\n") == 3
    assert "\x1b" not in out


def test_top_on_a_terminal_gives_the_screen_back(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.control["top"] = TOP
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(
        top_command.shutil, "get_terminal_size", lambda *_, **__: __import__("os").terminal_size((30, 6))
    )
    views: list[OverviewReply] = []

    def end(said: OverviewReply) -> None:
        redraw(said)
        views.append(said)
        if len(views) == 2:
            raise KeyboardInterrupt

    redraw = top_command._redraw
    monkeypatch.setattr(top_command, "_redraw", end)
    assert cli.run(["top", "--interval", "0.1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("\x1b[?1049h\x1b[?25l\x1b[H")
    assert out.endswith("\x1b[?25h\x1b[?1049l")
    assert out.count("\x1b[H") == 2
    assert "more lines" in out
