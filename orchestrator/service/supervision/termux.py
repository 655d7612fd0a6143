"""Services of Termux: runit's, and a script that the app Termux:Boot runs when the phone has started."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import SupervisorFailed
from orchestrator.service.supervision.supervised import State, Supervised, What, name_of, told

_STOP_S = 30
"""A node gives its layers to others first, where there are others."""

_RUN = """\
#!{prefix}/bin/sh
# Written by linguabus; removed by: linguabus service remove {what}
exec 2>&1
timeout {timeout_s:.0f} termux-wake-lock </dev/null
# What its owner has set, such as LINGUABUS_ONLY_CHARGING=1.
set -a
[ ! -r {variables} ] || . {variables}
set +a
exec {command}
"""
_FINISH = """\
#!{prefix}/bin/sh
# What ends with 2, such as a node that is no member any more, waits for people: it is not tried again all the time.
[ "$1" != 2 ] || sleep 60
"""
_BOOT = """\
#!{prefix}/bin/sh
# Run by the app Termux:Boot when the phone has started: the service of linguabus follows.
timeout {timeout_s:.0f} termux-wake-lock </dev/null
. {prefix}/etc/profile.d/start-services.sh
"""


def termux_prefix() -> Path | None:
    """Where Termux has its programs; None: this is not Termux."""
    prefix = os.environ.get("PREFIX", "")
    return Path(prefix) if prefix.endswith("/com.termux/files/usr") else None


class TermuxServices:
    """The services of this Termux. Commands of apps that are missing wait for ever: none is waited for long."""

    def __init__(self, prefix: Path, home: Path, *, timeout_s: float) -> None:
        """``home``: the user's own."""
        self._prefix = prefix
        self._boot = home / ".termux" / "boot"
        self._timeout_s = timeout_s

    def files(self, service: Supervised) -> dict[Path, str]:
        """A service's two scripts and the one for the phone's start."""
        values = {
            "prefix": self._prefix,
            "what": service.what,
            "timeout_s": self._timeout_s,
            "variables": shlex.quote(str(service.variables)),
            "command": shlex.join(service.command),
        }
        folder = self._folder(service.what)
        scripts = {
            folder / "run": _RUN,
            folder / "finish": _FINISH,
            self._boot / name_of(service.what): _BOOT,
        }
        return {path: text.format(**values) for path, text in scripts.items()}

    def install(self, service: Supervised, *, starts: bool, tell: Callable[[str], None]) -> None:
        """Write the scripts, and enable the service; see `Supervisor`."""
        try:
            for path, text in self.files(service).items():
                _put(path, text)
            log = self._folder(service.what) / "log"
            log.mkdir(exist_ok=True)
            if not (log / "run").is_symlink():
                (log / "run").symlink_to(self._prefix / "share" / "termux-services" / "svlogger")
        except OSError as error:
            raise SupervisorFailed(f"{error.filename} can't be written: {error.strerror}") from None
        name = name_of(service.what)
        if starts:
            if not self._does(["termux-wake-lock"]):
                tell("no wake lock: Android may stop it when the screen is off (is Termux itself up to date?)")
            # The daemon is started by the next session's profile, and is needed in this one.
            self._does(["sh", "-c", f". {self._prefix}/etc/profile.d/start-services.sh"])
            if not self._does(["sv-enable", name]) or not self._does(["sv", "up", name]):
                raise SupervisorFailed("termux-services does not answer: is it there (pkg install termux-services)?")
        tell(f"what it says: tail -f {self._prefix}/var/log/sv/{name}/current")
        tell("it starts with Termux; with the app Termux:Boot, with the phone")

    def remove(self, what: What) -> bool:
        """Stop the service and remove its scripts; see `Supervisor`."""
        name, folder = name_of(what), self._folder(what)
        there = folder.exists() or (self._boot / name).exists()
        self._does(["sv", "-w", str(_STOP_S), "force-down", name], timeout_s=2 * _STOP_S)
        self._does(["sv-disable", name])
        shutil.rmtree(folder, ignore_errors=True)
        (self._boot / name).unlink(missing_ok=True)
        return there

    def state(self, what: What) -> State:
        """What runit says of it; see `Supervisor`."""
        name, folder = name_of(what), self._folder(what)
        if not folder.exists():
            return State(name, installed=False, starts_with_machine=False, active="down")
        said = told(["sv", "status", name], timeout_s=self._timeout_s, check=False)
        return State(
            name,
            installed=True,
            starts_with_machine=not (folder / "down").exists(),
            active=said.partition(":")[0] or "unknown",
        )

    def _folder(self, what: What) -> Path:
        return self._prefix / "var" / "service" / name_of(what)

    def _does(self, command: Sequence[str], *, timeout_s: float | None = None) -> bool:
        quiet = subprocess.DEVNULL
        with suppress(OSError, subprocess.TimeoutExpired):
            limit_s = timeout_s or self._timeout_s
            return not subprocess.run(
                command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=limit_s, check=False
            ).returncode
        return False


def _put(path: Path, text: str) -> None:
    """Where nobody reads it yet, then in its place: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.new")
    partial.write_text(text, "utf-8")
    partial.chmod(0o700)
    partial.replace(path)
