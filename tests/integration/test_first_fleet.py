"""From ``linguabus init`` to an answer over two devices that have joined by a line each, as the README says it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

import pytest

from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.store import ModelStore
from schemas.codec import FRAME_VERSION, MAGIC, Kind
from tests.support.fleet_world import HOST, free_ports
from tests.support.packet_capture import PacketCapture, can_capture, tshark, tshark_writing
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

APPLICATION_DATA = b"\x17\x03\x03"
"""Begins a record of TLS."""
LINGUABUS = (sys.executable, "-m", "orchestrator.cli")


def run(home: Path, *arguments: str, fails: bool = False) -> str:
    """What a command prints; where it fails, on stderr."""
    done = subprocess.run(
        [*LINGUABUS, "--home", str(home), *arguments], capture_output=True, text=True, cwd=ROOT, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


@contextmanager
def running(home: Path, *arguments: str, until: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, once it has printed a line that begins with ``until``."""
    home.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*LINGUABUS, "--home", str(home), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT, env=os.environ,
    )  # fmt: skip
    assert process.stdout
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(until):
                break
        else:
            pytest.fail("".join(lines))
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)


def line_of(home: Path, name: str, *options: str) -> str:
    """The invitation that ``invite`` prints."""
    command, word, line = run(home, "invite", name, *options).split()
    assert (command, word) == ("linguabus", "join")
    return line


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, tiny_store: ModelStore) -> Iterator[Path]:
    """The home of a fleet that is served, with the nodes phone and tablet."""
    base = tmp_path_factory.mktemp("fleet")
    host = base / "host"
    host.mkdir()
    (host / "models").symlink_to(tiny_store.home)
    ports = zip(("--broker-port", "--http-port", "--host-port"), map(str, free_ports(3)), strict=True)
    run(host, "init", "--listen", HOST, *chain.from_iterable(ports))
    with ExitStack() as stack:
        serve = ("serve", "--with-broker", "--model", "tiny", "--min-nodes", "2", "--context", "128")
        stack.enter_context(running(host, *serve, until="orchestrator: "))
        for name in ("phone", "tablet"):
            join = ("join", line_of(host, name), "--memory-limit-mb", "400", "--drain-timeout", "0")
            stack.enter_context(running(base / name, *join, until=f"node {name}: registered"))
        yield host


def test_from_nothing_to_an_answer(host: Path, tmp_path: Path) -> None:
    assert run(host, "ask", "--max-tokens", "4", "--raw", "hello")
    assert {node["node"] for node in json.loads(run(host, "nodes", "--json"))["nodes"]} == {"phone", "tablet"}

    laptop = tmp_path / "laptop"
    line = line_of(host, "laptop", "--client")
    assert "joined as laptop" in run(laptop, "join", line)
    assert "already" in run(laptop, "join", line)
    assert run(laptop, "ask", "--max-tokens", "4", "--raw", "hello")
    assert "laptop" in run(laptop, "nodes", fails=True)
    assert "is not good" in run(tmp_path / "thief", "join", line, fails=True)

    run(host, "revoke", "laptop")
    assert "ot authorized" in run(laptop, "ask", "hello", fails=True)
    members = {one["name"]: one["role"] for one in json.loads(run(host, "members", "--json"))["members"]}
    assert members.items() >= {"phone": "node", "tablet": "node"}.items()
    assert "laptop" not in members


@pytest.mark.skipif(not can_capture(), reason="packets are seen by root or with CAP_NET_RAW, on Linux")
def test_who_sees_every_packet_reads_nothing(host: Path) -> None:
    question = a_question()
    with PacketCapture(*ports_of(host)) as capture:
        answer = run(host, "ask", "--max-tokens", "60", "--raw", question)
    assert capture.bytes.count(APPLICATION_DATA) > 60, "nothing was captured"
    nothing_is_in_the_clear(capture.bytes, question, answer)


@pytest.mark.long
@pytest.mark.skipif(not can_capture(), reason="packets are seen by root or with CAP_NET_RAW, on Linux")
def test_wireshark_sees_tls_and_nothing_else(host: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.pcapng"
    question = a_question()
    with tshark_writing(seen, ports_of(host)):
        answer = run(host, "ask", "--max-tokens", "60", "--raw", question)
    nothing_is_in_the_clear(seen.read_bytes(), question, answer)
    assert len(tshark(seen, ports_of(host), "tls.app_data", "frame.number")) > 60
    assert set(
        tshark(seen, ports_of(host), "tls.handshake.type == 2", "tls.handshake.extensions.supported_version")
    ) == {"0x0304"}


def a_question() -> str:
    return f"the secret is {secrets.token_hex(16)}"


def ports_of(host: Path) -> tuple[int, ...]:
    settings = FleetFolder.of(host).settings
    return settings.broker_port, settings.http_port, settings.host_port


def nothing_is_in_the_clear(seen: bytes, question: str, answer: str) -> None:
    """Of a question, its answer, and what nodes send each other."""
    assert len(answer) > 10
    for text in (question.encode(), question[:12].encode(), answer[:12].encode(), b"linguabus/v1/", b"MQTT"):
        assert text not in seen
    # Frames of hidden states begin with a magic, a version and a kind.
    assert MAGIC + bytes([FRAME_VERSION, Kind.ACTIVATION]) not in seen


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    assert "linguabus init" in run(tmp_path, "invite", "phone", fails=True)
    assert "linguabus init" in run(tmp_path, "members", fails=True)
    run(tmp_path, "init", "--listen", HOST)
    assert "already" in run(tmp_path, "init", fails=True)
    assert "no member phone" in run(tmp_path, "revoke", "phone", fails=True)
    assert "15m" in run(tmp_path, "invite", "phone", "--expires", "soon", fails=True)
    assert "no invitation" in run(tmp_path / "other", "join", "linguabus://nonsense", fails=True)
