"""The command line in a fleet: its broker, orchestrator and nodes, with a tiny model that it added itself."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from broker.free_ports import free_port
from orchestrator import cli
from tests.support.added_model import AddedModel
from tests.support.members import FleetUrl, Members
from tests.support.nodes import running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.services import await_plan, patient_client

CONTEXT_TOKENS = 200


@pytest.fixture(scope="module")
def members(added_model: AddedModel, tmp_path_factory: pytest.TempPathFactory) -> Members:
    """A fleet of this module's own, in whose home is one model, ``tiny``, added by ``model add``."""
    members = Members(tmp_path_factory.mktemp("cli") / "home", free_port())
    shutil.copytree(added_model.home / "models", members.home / "models")
    return members


@pytest.fixture(scope="module")
def home(members: Members) -> Path:
    return members.home


@dataclass
class Served:
    """A running ``linguabus serve --with-broker``."""

    process: subprocess.Popen[str]
    home: Path
    broker: FleetUrl

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli", "--home", str(self.home), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*arguments),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip


@pytest.fixture
def served(members: Members, tmp_path: Path) -> Iterator[Served]:
    serve = ["serve", "--with-broker", "--context", str(CONTEXT_TOKENS), "--slots", "2"]
    with (
        (tmp_path / "serve.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-u", "-m", "orchestrator.cli", "--home", str(members.home), *serve],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            port = members.fleet.settings.broker_port
            said = f"broker: Mosquitto with TLS and roles, on port {port}\n"
            assert lines[0] == said, (lines, (tmp_path / "serve.log").read_text())
            yield Served(process, members.home, FleetUrl(port, members))
        finally:
            process.terminate()
            rest, _ = process.communicate(timeout=DEADLINE_S)
        assert (process.returncode, rest) == (0, "stopped\n")


def test_the_model_is_listed_shown_and_verified(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--home", str(home), "model"]
    assert cli.run([*model, "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["*", "tiny", "llama", "fp32", "exact"]
    assert cli.run([*model, "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"
    assert cli.run([*model, "verify", "tiny"]) == 0
    assert "largest difference 0, equal to the bit, the same tokens" in capsys.readouterr().out


def test_a_fleet_answers_and_says_who_did_what(served: Served, tmp_path: Path) -> None:
    ask = ["ask", "What is the capital of France?", "--max-tokens", "40"]
    with running_nodes(["red", "blue"], served.broker, tmp_path):
        await_plan(served.broker)
        first = served.run(*ask, "--json", "--stats")
        assert first.returncode == 0, first.stderr
        report = json.loads(first.stdout)
        assert report["completion_tokens"] == len(report["token_ids"])
        assert "TTFT" in first.stderr

        both = [
            subprocess.Popen(served.command(*ask), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in both:
            out, errors = process.communicate(timeout=DEADLINE_S)
            assert (process.returncode, out) == (0, report["text"] + "\n")
            assert errors == ("[cut: 40 tokens]\n" if report["finish_reason"] == "length" else "")

        assert {line.split()[0] for line in served.run("nodes").stdout.splitlines()[1:]} == {"red", "blue"}
        plan = json.loads(served.run("plan", "--json").stdout)
        assert plan["model"] == "tiny"
        assert {stage["node"] for stage in plan["stages"]} <= {"red", "blue"}
        assert "tiny in epoch" in served.run("plan").stdout

        long = served.run("ask", "word " * CONTEXT_TOKENS)
        assert long.returncode == 2
        assert re.fullmatch(r"Error: .*\b200\b.*\n", long.stderr)


def test_bench_measures_what_runs(served: Served, tmp_path: Path) -> None:
    load = ["--prompt-tokens", "12", "--output-tokens", "8", "--concurrency", "1,2", "--repeat", "2"]
    bench = ["bench", *load, "--seed", "1"]  # some other seeds make a first question longer than this context
    with running_nodes(["red"], served.broker, tmp_path):
        await_plan(served.broker)
        done = served.run(*bench, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["model"], report["nodes"]) == ("tiny", ["red"])
        assert [result["answers"] for result in report["results"]] == [2, 4]
        for result in report["results"]:
            assert 0 < result["prompt_tokens"] < CONTEXT_TOKENS
            assert 0 < result["ttft_s"]["p50"] <= result["ttft_s"]["p95"]
            assert [stage["node"] for stage in result["stages"]] == ["red"]
            assert 0 < result["stages"][0]["utilisation"] <= 1
        assert "TTFT p50 ms" in served.run(*bench).stdout


def test_ctrl_c_frees_the_nodes(served: Served, tmp_path: Path) -> None:
    endless = ["ask", "one two three", "--max-tokens", "150", "--temperature", "5", "--seed", "1"]
    slow = ["--emulate-speed", "0.05"]
    with running_nodes(["red"], served.broker, tmp_path, *slow), patient_client(served.broker) as client:
        await_plan(served.broker)
        with subprocess.Popen(served.command(*endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 130
        assert re.fullmatch(rb"\[cut: cancelled after \d+ tokens\]\n", errors)
        assert client.status().open_requests == 0


def test_a_reader_that_goes_away_frees_the_nodes(served: Served, tmp_path: Path) -> None:
    """Killed, told to end, hung up, or with nobody behind the pipe: none of these answers would end by itself."""
    endless = ["ask", "one two three", "--max-tokens", "150", "--temperature", "5", "--seed", "1"]
    slow = ["--emulate-speed", "0.01"]
    with running_nodes(["red"], served.broker, tmp_path, *slow), patient_client(served.broker) as client:
        await_plan(served.broker)
        for how, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (None, 1)):
            with subprocess.Popen(served.command(*endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stdout.read(1)
                if how is None:
                    process.stdout.close()
                else:
                    process.send_signal(how)
                assert process.wait(DEADLINE_S) == code
                assert process.stderr is not None
                assert process.stderr.read() == b""
            while client.status().open_requests:
                pass
    log = (tmp_path / "serve.log").read_text()
    assert log.count("nothing is heard of its reader") == 1
    assert log.count("ended (cancelled)") == 3


def test_the_model_in_use_is_changed_over_to(served: Served) -> None:
    done = served.run("model", "use", "tiny")
    assert (done.returncode, done.stdout) == (0, "tiny is active and served\n"), done.stderr
    done = served.run("model", "rm", "tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: tiny is being served: ")


def test_a_second_orchestrator_is_told_of_the_first(served: Served) -> None:
    """Not of the port, which only says that somebody has it."""
    done = served.run("serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"Error: .* serves .*--take-over\n", done.stderr), done.stderr


def test_no_nodes_is_one_line(served: Served) -> None:
    done = served.run("ask", "Hello", "--patience", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"(waiting for a plan: .*\n)?Error: no nodes.*\n", done.stderr)
    assert served.run("nodes").stdout.startswith("no nodes yet")
    assert re.fullmatch(r"Error: .*no nodes.*\n", served.run("plan").stderr)


def test_not_enough_memory_says_how_much_is_missing(served: Served, tmp_path: Path) -> None:
    with running_nodes(["red"], served.broker, tmp_path, "--memory-limit-mb", "64"):
        while "red" not in (nodes := served.run("nodes").stdout):
            pass
        assert "  64 MB  " in nodes
        done = served.run("ask", "Hello", "--patience", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"(waiting for a plan: .*\n)?Error: .*\d+(\.\d+)? [MG]B.*\n", done.stderr), done.stderr
    assert "raise the --memory-limit-mb of 'red' by " in done.stderr
