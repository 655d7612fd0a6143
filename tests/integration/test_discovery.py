"""A node without options finds a fleet that is announced in its network, and says whom to ask; it joins nobody.

The network is one of the test's own, where the system allows that: this machine's real ones are not asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.free_ports import free_ports
from schemas import PROTOCOL_VERSION
from tests.support.fleet_commands import FleetCommands
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
    reason="a network of its own is made by root, on Linux",
)
ADDRESS = "10.77.0.1"
_WORLD = f"""
set -e
ip link set lo up multicast on
ip address add {ADDRESS}/32 dev lo
ip route add 224.0.0.0/4 dev lo
exec "$@"
"""
_SCRIPT = """
import json, subprocess, sys
from broker.discovery import look
home, serve = sys.argv[1], sys.argv[2:]
running = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
assert any(line.startswith("orchestrator:") for line in running.stdout)
try:
    found = [[one.fleet, one.port, one.addresses, one.protocol] for one in look(1.0)]
    node = subprocess.run(
        [sys.executable, "-m", "edge_node", "--home", home], capture_output=True, text=True, timeout=60
    )
finally:
    running.terminate()
    running.communicate()
print(json.dumps([found, node.returncode, node.stderr]))
"""


def test_a_node_without_options_says_who_invites(tmp_path: Path) -> None:
    commands = FleetCommands()
    host = tmp_path / "host"
    broker, http, inside = free_ports(3)
    commands.run(
        host, "init", "--address", ADDRESS, "--broker-port", str(broker), "--http-port", str(http),
        "--host-port", str(inside),
    )  # fmt: skip
    serve = [sys.executable, "-m", "orchestrator.cli", "--home", str(host), "serve", "--with-broker", "--announce"]
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", _WORLD, "sh", sys.executable, "-c", _SCRIPT, str(tmp_path / "node"), *serve],
        env={name: value for name, value in os.environ.items() if not name.startswith("LINGUABUS_")},
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, code, said = json.loads(done.stdout.splitlines()[-1])
    ((fleet, port, addresses, protocol),) = found
    assert (port, addresses, protocol) == (http, [ADDRESS], PROTOCOL_VERSION)
    assert code == 2
    assert f"in this network there is the fleet {fleet} at {ADDRESS}: join the fleet by the line that" in said
    assert not (tmp_path / "node" / "credential.json").exists()


def test_only_a_fleet_is_announced(tmp_path: Path) -> None:
    said = FleetCommands().run(tmp_path, "serve", "--announce", fails=True)
    assert "--announce is for a fleet, and there is none in this home" in said
    commands = FleetCommands()
    commands.run(tmp_path, "init", "--address", "127.0.0.1", "--listen", "127.0.0.1")
    assert "other machines reach none of this fleet's addresses" in commands.run(
        tmp_path, "serve", "--announce", fails=True
    )
