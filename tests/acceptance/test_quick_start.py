"""The lines of docs/quick-start.md in their order, in an empty home: what a newcomer types is what works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from broker.free_ports import free_ports
from orchestrator.commands.settings import default_cache
from tests.support.built_packages import bare
from tests.support.command_lines import blocks
from tests.support.fleet_world import HOST
from tests.support.repository import ROOT
from tests.support.terminal import terminal

pytestmark = [pytest.mark.packages, pytest.mark.timeout(1800)]

PAGE = ROOT / "docs" / "quick-start.md"
MARK = ("run by", "tests/acceptance/test_quick_start.py")
DEADLINE_S = 900.0
"""The first time a model is fetched and converted, and the second device fetches packages."""


def typed() -> list[list[str]]:
    """The words of each line of the page that is run here."""
    return [list(command.words) for block in blocks(PAGE) if block.mark == MARK for command in block.commands()]


def linguabus(words: list[str], environment: Mapping[str, str]) -> str:
    assert words[0] == "linguabus"
    command = [sys.executable, "-m", "orchestrator.cli", *words[1:]]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_from_two_commands_to_a_second_device(tmp_path: Path) -> None:
    home, second = tmp_path / "home", tmp_path / "second"
    second.mkdir()
    (home / ".config/linguabus").mkdir(parents=True)
    # Ports that nobody else has, where a newcomer takes those that are usual; and a model that was fetched before.
    ports = dict(zip(("broker-port", "http-port", "host-port"), free_ports(3), strict=True))
    settings = {"init": {"listen": HOST, **ports}, "up": {"port": 0}}
    (home / ".config/linguabus/config.yaml").write_text(yaml.safe_dump(settings))
    environment = bare(HOME=str(home), XDG_CONFIG_HOME="", XDG_CACHE_HOME=str(default_cache().parent))
    up, ask, doctor, invite, nodes, plan = typed()
    command = [sys.executable, "-u", "-m", "orchestrator.cli", *up[1:]]
    with terminal(command, environment, ROOT, tmp_path / "up.log") as host:
        host.wait_for("serving", DEADLINE_S)
        page = host.wait_for("in a browser: ", DEADLINE_S).split()[3]
        assert "<title>" in httpx.get(page, headers={"accept": "text/html"}, timeout=60).text
        assert "Tokyo" in linguabus(ask, environment)
        assert " 0 failed" in linguabus(doctor, environment)
        line = linguabus(invite, environment)
        device = bare(HOME=str(second), PIP_NO_CACHE_DIR="1", XDG_CONFIG_HOME="")
        with terminal(["sh", "-c", line], device, ROOT, tmp_path / "second.log") as pasted:
            pasted.wait_for("node second: registered", DEADLINE_S)
            assert "second" in linguabus(nodes, environment)
            assert linguabus(plan, environment)
    assert host.process.returncode == 0, host.said
    assert host.said.splitlines()[-1].startswith("stopped")
