"""A container engine and Compose for tests: the machine's own where one answers, else a dockerd of the test's own."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from broker.free_ports import free_ports

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Engine:
    """What tells ``docker`` and Compose where to connect to."""

    environment: Mapping[str, str]

    def run(self, *command: str, check: bool = True, given: str = "") -> str:
        """What a command prints that reads ``given``; raises AssertionError with its messages when it fails and
        ``check`` is set.
        """
        done = subprocess.run(
            command, env=dict(self.environment), input=given,
            capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.run("docker", *arguments, check=check)

    def has(self, image: str) -> bool:
        """Whether ``image`` is there or could be pulled."""
        if not self.docker("image", "ls", "--quiet", image).strip():
            self.docker("pull", "--quiet", image, check=False)
        return bool(self.docker("image", "ls", "--quiet", image).strip())

    def leftovers(self, project: str) -> list[str]:
        """Containers, volumes and networks of a Compose project."""
        label = f"label=com.docker.compose.project={project}"
        kinds = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return [name for kind in kinds for name in self.docker(*kind, "--quiet", "--filter", label).split()]


class Ports(NamedTuple):
    """TCP ports of a project on the loopback."""

    broker: int
    http: int
    api: int
    prometheus: int

    @classmethod
    def free(cls) -> Ports:
        """Such ones as nobody uses."""
        return cls(*free_ports(len(cls._fields)))


@dataclass(frozen=True)
class Project:
    """``docker-compose.yml`` under a name of the test's own."""

    engine: Engine
    name: str
    files: Sequence[Path]
    ports: Ports

    def __call__(self, *arguments: str, given: str = "", **variables: str) -> str:
        """What Compose prints; ``variables`` are for this one command."""
        files = [word for file in self.files for word in ("--file", str(file))]
        named = {
            "LINGUABUS_ADDRESS": HOST, "LISTEN_ADDRESS": HOST, "MQTT_PORT": str(self.ports.broker),
            "HTTP_PORT": str(self.ports.http), "API_PORT": str(self.ports.api),
            "PROMETHEUS_PORT": str(self.ports.prometheus),
        }  # fmt: skip
        there = Engine({**self.engine.environment, **named, **variables})
        return there.run(*compose(), "--project-name", self.name, *files, *arguments, given=given)


@functools.cache
def compose() -> tuple[str, ...]:
    """The program of Compose v2: ``docker compose``, or a ``docker-compose`` on PATH."""
    candidates = [("docker", "compose"), *((str(Path(folder) / "docker-compose"),) for folder in os.get_exec_path())]
    for command in candidates:
        if shutil.which(command[0]) is None:
            continue
        asked = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and int(asked.stdout.strip().lstrip("v").split(".")[0]) >= 2:
            return command
    raise AssertionError("there is no Compose v2: run make test-compose, which installs it")


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine that answers.

    Where there is none, a dockerd with a socket and folders of its own runs until the context is left. It leaves the
    machine's firewall, its forwarding and its bridges alone: its containers reach each other, but nothing outside.
    """
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        yield Engine(dict(os.environ))
        return
    assert os.geteuid() == 0, "no container engine answers and only root can start one: start Docker and repeat"
    folder = Path(tempfile.mkdtemp(prefix="lb-docker-"))
    address = f"unix://{folder}/socket"
    command = [  # ended with this process, and not by the terminal's Ctrl-C: it is needed until all is cleaned up
        "setpriv", "--pdeathsig=TERM", "dockerd", f"--host={address}", f"--data-root={folder}/data",
        f"--exec-root={folder}/exec", f"--pidfile={folder}/pid", "--bridge=none", "--iptables=false",
        "--ip6tables=false", "--ip-forward=false",
    ]  # fmt: skip
    try:
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            started = Engine({**os.environ, "DOCKER_HOST": address})
            _await_answer(started, process, folder / "log")
            yield started
        finally:
            process.terminate()  # it ends its containers first
            process.wait(START_TIMEOUT_S)
    finally:
        _unmount(folder)
        shutil.rmtree(folder)


def _unmount(folder: Path) -> None:
    """What a dockerd leaves mounted: the namespace of containers in the host's network."""
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", line.split()[1]], check=True)


def _await_answer(started: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not started.docker("version", "--format", "{{.Server.Version}}", check=False).strip():
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline_s, log.read_text()[-2000:]
        time.sleep(0.1)
