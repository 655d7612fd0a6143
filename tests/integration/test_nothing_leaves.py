"""Nothing leaves the devices: what every command, conversion and its processes included, connects to and writes.

An open broker on loopback serves here, the one of who tries linguabus on one machine.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from orchestrator.cli import COMMANDS
from tests.support.added_model import CLI, AddedModel
from tests.support.services import await_plan

COMMAND_LINES = """
ask Hello --max-tokens 4
bench --prompt-tokens 8 --output-tokens 4 --concurrency 1 --repeat 1
chat
events
model list
model show
model verify
node drain red
rename red old
nodes
plan preview
rebalance
simulate home
top --once
trace
version
config show
completion zsh
service show --user serve
init
invite tablet
members
permit-join off
key notebook
revoke tablet
fleet backup HOME/.local/share/linguabus/my.fleet
"""
LEFT_OUT = {"demo", "join", "doctor", "api", "up", "update-check"}
"""The first runs `serve` and `node`, and fetches a model first, as it says; the second connects to the fleet that has
invited, as it says; the third looks who answers at the fleet's addresses and ports; then a server, and what asks for
updates, as it says, and alone does."""


@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
def test_broker_and_blob_server_are_all_that_is_connected_to(added_model: AddedModel, tmp_path: Path) -> None:
    recorder = added_model.recorder
    assert recorder is not None
    assert {line.split()[0] for line in COMMAND_LINES.split("\n") if line} | LEFT_OUT | {"serve"} == set(COMMANDS)
    proxy = "http://127.0.0.1:9"  # whoever asked it would be seen
    proxies = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": ""}

    log = tmp_path / "serve.log"
    serve = recorder.start([*CLI, "serve", "--with-broker", "--slots", "2"], log, PYTHONUNBUFFERED="1", **proxies)
    started = [serve]
    try:
        assert serve.process.stdout is not None
        said = "".join(serve.process.stdout.readline() for _ in range(4))
        broker, blobs = re.search(r"mqtt://127.0.0.1:(\d+)", said), re.search(r"http://127.0.0.1:(\d+)", said)
        assert broker, log.read_text()
        assert blobs, said
        client = [*CLI, "--broker", broker.group()]
        for name in ("red", "blue"):
            home = recorder.home / ".local" / name
            node = [*client, "node", "--name", name, "--home", str(home), "--drain-timeout", "0"]
            started.append(recorder.start(node, tmp_path / f"{name}.log", **proxies))
        await_plan(broker.group())
        for line in filter(None, COMMAND_LINES.split("\n")):
            # Of what a random model says, Latin-1 has no letters for some.
            words = line.replace("HOME", str(recorder.home)).split()
            given = {"PYTHONIOENCODING": "latin-1", "LINGUABUS_PASSPHRASE": "of this test", **proxies}
            code, out, errors = recorder.run(*client, *words, **given)
            assert (code, "Traceback" in errors) == (0, False), (line, out, errors)
            assert out.strip(), line
    finally:
        codes = [process.end() for process in reversed(started)]
    assert codes == [0, 0, 0], [file.read_text() for file in tmp_path.iterdir()]

    assert recorder.addresses() == {("127.0.0.1", int(broker[1])), ("127.0.0.1", int(blobs[1]))}
    ours = (recorder.home / ".local", recorder.temporary, Path("/dev/null"), Path("/proc/self/clear_refs"))
    beside = {path for path in recorder.written() if not any(path == own or own in path.parents for own in ours)}
    # A semaphore that Python makes and removes to see whether it can.
    assert {path for path in beside if not path.name.startswith("sem.")} == set()
    assert list(recorder.temporary.iterdir()) == []
    assert [path.name for path in recorder.home.iterdir()] == [".local"]
    assert [path.name for path in (recorder.home / ".local" / "share").iterdir()] == ["linguabus"]
