"""Units of systemd, of the system or of one user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from broker.config_file import config_folder
from orchestrator.errors import SupervisorFailed
from orchestrator.service.supervision.supervised import State, Supervised, What, name_of, told

SYSTEM_FOLDER = Path("/etc/systemd/system")
_LINGERING = Path("/var/lib/systemd/linger")

# Without a limit of starts, and the same wait each time: what is missing, such as a network, may come hours later.
_UNIT = """\
# Written by linguabus; removed by: linguabus service remove {what}
[Unit]
Description=linguabus {what}
{after}StartLimitIntervalSec=0

[Service]
Type=exec
{who}ExecStart={command}
WorkingDirectory={home}
EnvironmentFile=-{variables}
Restart=on-failure
RestartSec=5
# Its own processes are its own to end; a node may need a while to hand its layers over.
KillMode=mixed
TimeoutStopSec=90
UMask=0077
{hardening}

[Install]
WantedBy={target}
"""
_AFTER = "Wants=network-online.target\nAfter=network-online.target\n"

# What one user's manager may ask of the kernel, too.
_EVERYWHERE = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
)
_OF_THE_SYSTEM = (
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "ProtectHome=read-only",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)
_OWN_TEMPORARY = ("PrivateTmp=yes",)
"""Not where the program or its home lies in one of `_TEMPORARY`: the unit would not see it."""
_TEMPORARY = ("/tmp", "/var/tmp")
_WITHOUT_DEVICES = ("PrivateDevices=yes", "ProtectClock=yes")
"""Not of a node: it may compute on a device, and reads the machine's battery and heat."""


class Systemd:
    """The manager of the system's units, or of one user's."""

    def __init__(self, *, is_system: bool, account: str = "", timeout_s: float) -> None:
        """``account``: whom the system's units run as."""
        self._is_system = is_system
        self._account = account
        self._timeout_s = timeout_s

    def files(self, service: Supervised) -> dict[Path, str]:
        """One unit."""
        hardening = list(_EVERYWHERE)
        if self._is_system:
            hardening += [*_OF_THE_SYSTEM, f"ReadWritePaths={_quoted([str(service.home)])}"]
            hardening += _WITHOUT_DEVICES if service.what != "node" else ()
            hardening += () if _is_temporary(service) else _OWN_TEMPORARY
        unit = _UNIT.format(
            what=service.what,
            # One user's manager does not know the network's state: what is too early is started again.
            after=_AFTER if self._is_system else "",
            who=f"User={self._account}\n" if self._is_system else "",
            command=_quoted(service.command),
            home=_path(service.home),
            variables=_path(service.variables),
            hardening="\n".join(hardening),
            target="multi-user.target" if self._is_system else "default.target",
        )
        return {self._path(service.what): unit}

    def install(self, service: Supervised, *, starts: bool, tell: Callable[[str], None]) -> None:
        """Write the unit and enable it; see `Supervisor`."""
        path = self._path(service.what)
        was_there = path.exists()
        try:
            self._make_home(service.home)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.files(service)[path], "utf-8")
            path.chmod(0o644)
        except OSError as error:
            raise SupervisorFailed(f"{error.filename or path} can't be written: {error.strerror}") from None
        try:
            if starts:
                self._systemctl("daemon-reload")
            self._systemctl("enable", path.name)
            if starts:
                self._systemctl("restart", path.name)
        except SupervisorFailed:
            if not was_there:
                self.remove(service.what)
            raise
        journal = "journalctl" if self._is_system else "journalctl --user"
        tell(f"what it says: {journal} -u {path.name} -f")
        if not self._is_system and not (_LINGERING / _own_name()).exists():
            tell(f"it runs while you are logged in; with the machine: loginctl enable-linger {_own_name()}")

    def remove(self, what: What) -> bool:
        """Stop, disable and remove the unit; see `Supervisor`."""
        path = self._path(what)
        if not path.exists():
            return False
        self._systemctl("disable", path.name)
        with contextlib.suppress(SupervisorFailed):  # no manager runs here, and so does nothing of it
            self._systemctl("stop", path.name)
        try:
            path.unlink()
        except OSError as error:
            raise SupervisorFailed(f"{path} can't be removed: {error.strerror}") from None
        for words in (("daemon-reload",), ("reset-failed", path.name)):
            with contextlib.suppress(SupervisorFailed):  # as above; or it has never failed
                self._systemctl(*words)
        return True

    def state(self, what: What) -> State:
        """How the unit is; see `Supervisor`."""
        path = self._path(what)
        if not path.exists():
            return State(name_of(what), installed=False, starts_with_machine=False, active="inactive")
        enabled = self._systemctl("is-enabled", path.name, check=False).strip()
        active = self._systemctl("is-active", path.name, check=False).strip() or "unknown"
        return State(name_of(what), installed=True, starts_with_machine=enabled == "enabled", active=active)

    def _path(self, what: What) -> Path:
        folder = SYSTEM_FOLDER if self._is_system else config_folder() / "systemd" / "user"
        return folder / f"{name_of(what)}.service"

    def _systemctl(self, *words: str, check: bool = True) -> str:
        whose = () if self._is_system else ("--user",)
        return told(["systemctl", *whose, *words], timeout_s=self._timeout_s, check=check)

    def _make_home(self, home: Path) -> None:
        """The folder has to be there, or the unit that may write to nothing else does not start."""
        if not home.exists():
            home.mkdir(parents=True, mode=0o700)
            if self._is_system:
                shutil.chown(home, self._account)


def home_of(account: str) -> Path:
    """The default home of an account; raises `SupervisorFailed`."""
    try:
        return Path(pwd.getpwnam(account).pw_dir) / ".local" / "share" / "linguabus"
    except KeyError:
        raise SupervisorFailed(f"there is no account {account!r} on this machine: give another one with --as") from None


def _own_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _is_temporary(service: Supervised) -> bool:
    needed = (Path(service.command[0]), service.home)
    return any(path.is_relative_to(folder) for path in needed for folder in _TEMPORARY)


def _quoted(words: Iterable[str]) -> str:
    """Words as systemd reads them: quoted, without its specifiers and variables."""
    doubled = (word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") for word in words)
    return " ".join(f'"{word}"' if not word or set(word) & set(" \t'\";#\\") else word for word in doubled)


def _path(path: Path) -> str:
    return str(path).replace("%", "%%")
