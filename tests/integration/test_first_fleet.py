"""From ``linguabus init`` to an answer over two devices that have joined by a line each, as the README says it, and on
to another host that goes on with the fleet; and none of its secrets is where it does not belong."""

from __future__ import annotations

import json
import secrets
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from broker.credential import FILE, Credential
from broker.free_ports import free_ports
from broker.mqtt import MqttBus
from broker.private_file import write_private
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.model.store import ModelStore
from schemas.invitation import Invitation
from schemas.topics import PREFIX
from tests.support.fleet_commands import FleetCommands
from tests.support.fleet_world import HOST
from tests.support.polling import collect, deliveries
from tests.support.secret_hunt import processes, readable_files, secrets_in

OTHER_HOST = "127.0.0.2"
SERVE = ("serve", "--with-broker", "--model", "tiny", "--min-nodes", "2", "--context", "128")
QUESTION = ("ask", "--max-tokens", "12", "--raw", "hello")
DATA = ("nodes", "plan", "top --once")
"""Commands with --json."""
run = FleetCommands().run


def invitation(commands: FleetCommands, home: Path, name: str, *options: str) -> tuple[str, bytes]:
    """The file with the line that ``invite`` prints, for ``join``, and the secret in it."""
    line = run(home, "invite", name, *options)
    assert line.startswith("linguabus join linguabus://")
    path = home.parent / f"{name}.invitation"
    write_private(path, line)
    return f"@{path}", Invitation.parse(line.removeprefix("linguabus join ")).token


def key_of(home: Path) -> bytes:
    found = Credential.load(home / FILE)
    assert found
    return found.key.encode()


def what_the_broker_passes_on(host: Path, commands: FleetCommands) -> bytes:
    """Everything that the orchestrator may read, retained and while a question is answered."""
    own = FleetFolder.of(host).own_credential()
    with MqttBus(own.broker(), client_id="listener") as bus:
        bus.connect()
        bus.subscribe([f"{PREFIX}/#"], qos=1)
        commands.run(host, *QUESTION)
        done = "/stream"
        events = collect(
            bus, lambda events: any(d.topic.endswith(done) and b"end" in d.payload for d in deliveries(events))
        )
    heard = deliveries(events)
    assert {d.topic.rpartition("/")[2] for d in heard} >= {"birth", "status", "stream", "command"}
    return b"\n".join(d.topic.encode() + d.payload for d in heard)


def test_from_nothing_to_an_answer_and_to_another_host(tmp_path: Path, tiny_store: ModelStore) -> None:
    commands = FleetCommands(("-vv",))
    host, other, laptop = tmp_path / "host", tmp_path / "other", tmp_path / "laptop"
    passphrase = secrets.token_urlsafe(16)
    hidden = {"passphrase": passphrase.encode()}
    for home in (host, other):
        home.mkdir()
        (home / "models").symlink_to(tiny_store.home)
    ports = zip(("--broker-port", "--http-port", "--host-port"), map(str, free_ports(3)), strict=True)
    commands.run(host, "init", "--listen", HOST, *chain.from_iterable(ports))
    with ExitStack() as nodes:
        with ExitStack() as served:
            roots = [served.enter_context(commands.running(host, *SERVE, until="orchestrator: ")).process.pid]
            for name in ("phone", "tablet"):
                file, hidden[f"invitation of {name}"] = invitation(commands, host, name)
                join = ("join", file, "--memory-limit-mb", "400", "--drain-timeout", "0")
                node = commands.running(tmp_path / name, *join, until=f"node {name}: registered")
                roots.append(nodes.enter_context(node).process.pid)
                hidden[f"key of {name}"] = key_of(tmp_path / name / "node")
            answer = commands.run(host, *QUESTION)
            assert len(answer) > 10

            file, hidden["invitation of laptop"] = invitation(commands, host, "laptop", "--client")
            assert "joined as laptop" in commands.run(laptop, "join", file)
            assert "already" in commands.run(laptop, "join", file)
            assert commands.run(laptop, *QUESTION) == answer
            assert "laptop" in commands.run(laptop, "nodes", fails=True)
            assert "is not good" in commands.run(tmp_path / "thief", "join", file, fails=True)

            seen = what_the_broker_passes_on(host, commands)
            told = {name: commands.run(host, *name.split(), "--json") for name in DATA}
            assert {node["node"] for node in json.loads(told["nodes"])["nodes"]} == {"phone", "tablet"}
            commands.run(host, "fleet", "backup", str(tmp_path / "fleet.backup"), LINGUABUS_PASSPHRASE=passphrase)
            at_work = list(processes(roots))

        # Another host, whose broker is found at another address: nobody is invited again.
        commands.run(other, "fleet", "restore", str(tmp_path / "fleet.backup"), "--listen", OTHER_HOST, fails=True)
        restore = ("fleet", "restore", str(tmp_path / "fleet.backup"), "--listen", OTHER_HOST)
        assert f"join --address {OTHER_HOST}" in commands.run(other, *restore, LINGUABUS_PASSPHRASE=passphrase)
        with commands.running(other, *SERVE, until="orchestrator: "):
            for name in ("phone", "tablet", "laptop"):
                assert OTHER_HOST in commands.run(tmp_path / name, "join", "--address", OTHER_HOST)
            assert commands.run(laptop, *QUESTION) == answer
            commands.run(other, "revoke", "laptop")
            assert "ot authorized" in commands.run(laptop, "ask", "hello", fails=True)
            members = {
                one["name"]: one["role"] for one in json.loads(commands.run(other, "members", "--json"))["members"]
            }
            assert members.items() >= {"phone": "node", "tablet": "node"}.items()
            assert "laptop" not in members

    hidden |= {"key of the operator": key_of(host), "key of laptop": key_of(laptop)}
    hidden["key of the orchestrator"] = FleetFolder.of(host).own_credential().key.encode()
    for home in (host, other):
        for file in ("authority.key", "server.pem"):
            # The second line of 64 letters has the secret number.
            hidden[f"{file} of {home.name}"] = (home / "fleet" / file).read_bytes().splitlines()[2]
    found = [
        *(what for what, data in at_work if secrets_in(data, hidden)),
        *secrets_in("".join(commands.said).encode(), hidden),
        *secrets_in(seen, hidden),
        *secrets_in((tmp_path / "fleet.backup").read_bytes(), hidden),
        *(str(path) for path in readable_files([tmp_path]) if secrets_in(path.read_bytes(), hidden)),
    ]
    assert found == []


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    assert "linguabus init" in run(tmp_path, "invite", "phone", fails=True)
    assert "linguabus init" in run(tmp_path, "members", fails=True)
    run(tmp_path, "init", "--listen", HOST)
    assert "already" in run(tmp_path, "init", fails=True)
    assert "no member phone" in run(tmp_path, "revoke", "phone", fails=True)
    assert "15m" in run(tmp_path, "invite", "phone", "--expires", "soon", fails=True)
    assert "no invitation" in run(tmp_path / "other", "join", "linguabus://nonsense", fails=True)
