"""``model``: what will not work is said when a model is added; lists are short; what is served is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.model import extras
from orchestrator.model.store import ModelStore
from orchestrator.model.subproc import run_module
from tests.support.onnx_graphs import DecoderMaker, save


@pytest.mark.parametrize(
    ("template", "warning"),
    [("{{ messages[0].content }}", ""), ("{{ 'x' + 1 }}", "Warning: .* chat template fails: TypeError")],
)
def test_a_chat_template_that_fails_is_told_when_the_model_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, warning: str
) -> None:
    maker = DecoderMaker()
    folder = save(maker.head(maker.block("embedded")), tmp_path / "decoder")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    assert cli.run(["--home", str(tmp_path / "home"), "model", "add", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("decoder-fp32: ")
    warnings = [line for line in printed.err.splitlines() if line.startswith("Warning")]
    assert len(warnings) == (1 if warning else 0)
    if warning:
        assert re.match(warning, warnings[0])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the model ``tiny`` of three equal blocks."""
    maker = DecoderMaker()
    hidden = "embedded"
    for _ in range(3):
        hidden = maker.block(hidden)
    folder = save(maker.head(hidden), tmp_path / "decoder")
    assert cli.run(["--home", str(tmp_path / "home"), "model", "add", str(folder), "--name", "tiny"]) == 0
    return tmp_path / "home"


def test_a_second_model_says_that_the_first_one_stays_active(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "stays the active model" not in capsys.readouterr().out
    source = str(home.parent / "decoder")
    assert cli.run(["--home", str(home), "model", "add", source, "--name", "other"]) == 0
    assert capsys.readouterr().out.endswith("tiny stays the active model: linguabus model use other changes that\n")
    assert ModelStore(home / "models").active == "tiny"


def test_what_is_here_already_is_said_to_be_and_not_made_again(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add = ["--home", str(home), "model", "add", str(home.parent / "decoder")]
    assert cli.run(add) == 0
    capsys.readouterr()
    assert cli.run(add) == 0
    said = "decoder-fp32 is here already: linguabus model rm decoder-fp32 first has it made anew\n"
    assert capsys.readouterr() == (said, "")
    assert cli.run([*add, "--name", "tiny"]) == 2


def test_a_model_that_is_to_be_used_is_the_active_one_whether_it_is_new_or_there(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(home.parent / "decoder")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
    add = ["--home", str(home), "model", "add", "--use", "--broker", nobody]
    for _ in range(2):
        capsys.readouterr()
        assert cli.run([*add, source]) == 0
        assert capsys.readouterr().out.endswith("decoder-fp32 is active from the next 'linguabus serve' on\n")
        assert ModelStore(home / "models").active == "decoder-fp32"
        ModelStore(home / "models").use("tiny")


def test_what_can_not_be_converted_here_says_how_it_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "missing", lambda modules: [name for name in modules if name == "torch"])
    assert cli.run(["--home", str(tmp_path), "model", "add", "demo"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "(torch): pip install 'linguabus[convert]'; with Docker Compose: LINGUABUS_MODEL=SOURCE docker" in said


def test_ctrl_c_says_that_nothing_was_added(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.model.store.take_in", interrupted)
    other = save(DecoderMaker().head(DecoderMaker().block("embedded")), home.parent / "another")
    capsys.readouterr()
    assert cli.run(["--home", str(home), "model", "add", str(other), "--precision", "fp32"]) == 130
    assert capsys.readouterr().err == "interrupted: nothing was added\n"
    assert ModelStore(home / "models").names() == ("tiny",)


def test_a_name_that_is_not_there_is_told_what_may_be_meant(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("qwen-int4", "qwen-int8"):
        (home / "models" / "models" / name).mkdir()
        (home / "models" / "models" / name / "manifest.json").write_text("{}")
    for name, said in (("qwen-int", "did you mean qwen-int8 or qwen-int4?"), ("zzz", "see linguabus model list")):
        assert cli.run(["--home", str(home), "model", "show", name]) == 2
        assert capsys.readouterr().err == f"Error: there is no model '{name}': {said}\n"


def test_the_list_is_short_unless_all_of_it_is_wanted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = ["--home", str(home), "model", "list"]
    capsys.readouterr()
    assert cli.run([*listing, "--json"]) == 0
    (short,) = json.loads(capsys.readouterr().out)["models"]
    assert cli.run([*listing, "--json", "--full"]) == 0
    (full,) = json.loads(capsys.readouterr().out)["models"]
    assert (short["name"], short["num_layers"]) == ("tiny", 3)
    assert all(isinstance(value, str | int) for value in short.values())
    assert len(full["units"]) == 5
    assert cli.run([*listing, "--full"]) == 2


def test_equal_units_share_a_row(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run(["--home", str(home), "model", "show"]) == 0
    _, compared, quality, wires, left_out, headings, *rows = capsys.readouterr().out.splitlines()
    assert compared.startswith("against the same graph in one piece")
    assert quality.startswith("quality over 46 tokens of text (fast): perplexity ")
    assert wires.endswith("; the default is fp16")
    assert left_out.startswith("not compared: ")
    assert headings.split()[:2] == ["units", "kind"]
    assert [row.split()[:2] for row in rows] == [["0", "embed"], ["1-3", "block"], ["4", "head"]]


def test_a_model_that_is_served_is_removed_by_force_only(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    remove = ["--home", str(home), "model", "rm", "tiny"]
    store = ModelStore(home / "models")
    with store.in_use("tiny"):
        capsys.readouterr()
        assert cli.run(remove) == 2
        assert re.fullmatch(r"Error: tiny is being served: .*--force.*\n", capsys.readouterr().err)
        assert store.names() == ("tiny",)
        assert cli.run([*remove, "--force"]) == 0
    assert store.names() == ()


@pytest.fixture
def default_sigterm() -> Iterator[None]:
    """As in a process that has just started; other tests may have left handlers."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_sigterm")
def test_sigterm_ends_an_add_and_its_converter_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def take_in(_source: object, _precision: str, scratch: Path, *_: object) -> Path:
        """A converter that writes for ever."""

        def on_line(line: str) -> None:
            lines.append(line)
            os.kill(os.getpid(), signal.SIGTERM)

        (scratch / "half").write_bytes(b"x")
        run_module("http.server", ["0", "--bind", "127.0.0.1"], "converting", on_line, scratch)
        return scratch

    monkeypatch.setattr("orchestrator.model.store.take_in", take_in)
    folder = save(DecoderMaker().head("embedded"), tmp_path / "decoder")
    assert cli.run(["--home", str(tmp_path / "home"), "model", "add", str(folder)]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert not (tmp_path / "home" / "models").exists()
    port = re.search(r"port (\d+)", lines[0])
    assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])))
