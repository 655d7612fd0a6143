"""Termux without a phone: its prefix, home and commands in a world of their own.

No root, no /tmp, system folders that can't be written, and commands that are recorded and behave, hang or fail as told.
`pkg` installs nothing from anywhere: Python and its libraries are this machine's, and appear when they are "installed".
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.polling import DEADLINE_S

UID = 10_234
"""As Android gives each app one of its own."""
_INSIDE = Path("/mnt")
_FILES = "data/data/com.termux/files"
_FROM_THE_START = (
    "sh", "cat", "mkdir", "chmod", "mv", "rm", "ln", "ls", "dirname", "sha256sum", "timeout", "sleep", "env", "wc",
    "setsid", "kill", "tail", "dash", "uname",
)  # fmt: skip
_WORLD = f"""
set -e
mount --bind "$1" /mnt
mount --bind "$2" /mnt/system/python
mount --bind "$3" /mnt/system/libraries
mount -o remount,ro,bind /
mount -t tmpfs -o size=4k,mode=000 none /tmp
cd "$5"
echo $$ >/mnt/installer
exec setpriv --reuid {UID} --regid {UID} --clear-groups env -i HOME="$5" PREFIX="$4" TMPDIR="$4/tmp" PATH="$4/bin" \\
    LANG=C.UTF-8 LD_LIBRARY_PATH=/mnt/system/python/lib TERMUX_VERSION=0.118 LINGUABUS_PATIENCE_S=2 sh -c "$6"
"""
_STUB = """#!/mnt/{files}/usr/bin/sh
echo "{name} $*" >>/mnt/calls
if [ "$(wc -l </mnt/calls)" = "$(cat /mnt/kill-at 2>/dev/null)" ]; then
    kill -9 "-$(cat /mnt/installer)"
fi
case $(cat /mnt/behaviour/{name} 2>/dev/null) in
hang) exec sleep 600 ;;
fail) exit 1 ;;
esac
{body}
"""
_NOTIFICATION = """#!/mnt/{files}/usr/bin/sh
echo "{name} $*" >>/mnt/notifications
"""
_INSTALL = """
case $1 in install) ;; *) exit 0 ;; esac
/mnt/system/python/bin/{python} -m venv --without-pip "$PREFIX"
echo /mnt/system/libraries >"$PREFIX/lib/{python}/site-packages/libraries.pth"
cp -n /mnt/packages/bin/* "$PREFIX/bin/"
mkdir -p "$PREFIX/share/termux-services" "$PREFIX/etc/profile.d" "$PREFIX/var/service"
cp -n /mnt/packages/svlogger "$PREFIX/share/termux-services/svlogger"
cp -n /mnt/packages/start-services.sh "$PREFIX/etc/profile.d/start-services.sh"
"""
_SV = """
case $1 in
up)
    kill -0 "$(cat /mnt/service 2>/dev/null || echo none)" 2>/dev/null && exit
    setsid "$PREFIX/var/service/$2/run" >>/mnt/service.log 2>&1 </dev/null &
    echo $! >/mnt/service
    ;;
-w) # -w SECONDS force-down NAME, with less patience
    kill "$(cat /mnt/service)" || exit 0
    sleep 1
    kill -9 "$(cat /mnt/service)" || exit 0
    ;;
esac
"""


class SimulatedTermux:
    """One phone's Termux, in a folder. Skips the test where such a world can't be made."""

    def __init__(self, folder: Path) -> None:
        if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
            pytest.skip("a world without root and /tmp is made by root, on Linux, with util-linux")
        self.folder = folder
        self.prefix, self.home = folder / _FILES / "usr", folder / _FILES / "home"
        self._python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for made in (
            self.prefix / "bin",
            self.prefix / "tmp",
            self.home,
            folder / "behaviour",
            folder / "packages/bin",
        ):
            made.mkdir(parents=True)
        for mounted in ("python", "libraries"):
            (folder / "system" / mounted).mkdir(parents=True)
        for name in _FROM_THE_START:
            if found := shutil.which(name, path="/usr/bin:/bin"):
                (self.prefix / "bin" / name).symlink_to(found)
        self._stub("pkg", _INSTALL.format(python=self._python), ("cp", "ln", "mkdir"))
        self._stub("curl", f'exec {shutil.which("curl")} "$@"')
        self._stub("termux-wake-lock", "")
        self._stub("termux-wake-unlock", "")
        packages = folder / "packages"
        for name, body in (
            ("pip", 'exec python -m pip "$@"'),
            ("sv", _SV),
            ("sv-enable", 'rm -f "$PREFIX/var/service/$1/down"; exec sv up "$1"'),
            ("sv-disable", ':>"$PREFIX/var/service/$1/down"'),
            ("termux-battery-status", 'echo \'{"percentage": 80, "status": "CHARGING", "temperature": 30}\''),
        ):
            self._stub(name, body, into=packages / "bin")
        for name in ("termux-notification", "termux-notification-remove"):  # the node's, whenever it likes: not counted
            (packages / "bin" / name).write_text(_NOTIFICATION.format(files=_FILES, name=name))
            (packages / "bin" / name).chmod(0o755)
        (packages / "svlogger").write_text("#!/bin/sh\ncat >/dev/null\n")
        self._stub("start-services.sh", "", into=packages)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)
        for parent in folder.parents:  # the folder of all tests is its owner's alone
            if parent.stat().st_uid == os.geteuid() and parent.name.startswith("pytest"):
                parent.chmod(parent.stat().st_mode | 0o011)

    def _stub(self, name: str, body: str, needs: tuple[str, ...] = (), *, into: Path | None = None) -> None:
        for need in needs:
            if not (self.prefix / "bin" / need).exists():
                (self.prefix / "bin" / need).symlink_to(f"/usr/bin/{need}")
        path = (into or self.prefix / "bin") / name
        path.write_text(_STUB.format(files=_FILES, name=name, body=body))
        path.chmod(0o755)

    def behaves(self, command: str, how: str) -> None:
        """Let a command hang, fail, or behave (empty)."""
        (self.folder / "behaviour" / command).write_text(how)

    def run(self, line: str, *, killed_at: int = 0, succeeds: bool = True) -> str:
        """What a line prints that somebody types there.

        Args:
            killed_at: all is killed when so many commands have been called, in this and earlier runs.
            succeeds: it ends with 0; a line that is killed does not.
        """
        (self.folder / "kill-at").write_text(str(killed_at) if killed_at else "")
        process = self.start(line)
        try:
            output, _ = process.communicate(timeout=DEADLINE_S * 2)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert (process.returncode == 0) == succeeds, output
        return output

    def start(self, line: str) -> subprocess.Popen[str]:
        """The same, while it goes on. Whoever starts it ends its process group."""
        inside = [str(_INSIDE / _FILES / part) for part in ("usr", "home")]
        folders = [str(self.folder), sys.base_prefix, sysconfig.get_paths()["purelib"]]
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _WORLD, "sh", *folders, *inside, line],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """Commands with their arguments, as they were called."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def notifications(self) -> list[str]:
        """What the node has shown, and taken away."""
        path = self.folder / "notifications"
        return path.read_text().splitlines() if path.exists() else []

    def called(self) -> list[str]:
        """Commands as they were called, alone."""
        return [call.partition(" ")[0] for call in self.calls()]

    @property
    def service_pid(self) -> int | None:
        """The process of the service, if one runs."""
        path = self.folder / "service"
        pid = int(path.read_text()) if path.exists() and re.fullmatch(r"\d+\s*", path.read_text()) else None
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return None
        return None if state == "Z" else pid  # which nobody has asked for yet

    def close(self) -> None:
        """End the service."""
        if pid := self.service_pid:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
