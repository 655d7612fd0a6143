"""A Debian in a folder with systemd as its first process: it starts units, restarts and powers off as a machine does.

Its world has mounts, processes and control groups of its own, and this machine's network.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.debian_system import ALONE, end
from tests.support.polling import DEADLINE_S

PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "mosquitto", "python3")
"""With Debian's Python come the libraries that this machine's needs."""
# Where systemd can't write to /sys it leaves devices alone. It wants all control groups in one hierarchy.
_WORLD = """
set -e
root=$1
shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
for folder in run tmp dev sys; do mount -t tmpfs tmpfs "$root/$folder"; done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm" "$root/dev/pts"
chmod 1777 "$root/dev/shm" "$root/tmp"
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -o remount,ro "$root/sys"
for folder in "$@"; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
    mount -o remount,ro,bind "$root$folder"
done
cd "$root"
mkdir -p .before
pivot_root . .before
umount -l /.before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
"""


class BootedSystem:
    """One such system, while it is up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *command: str | Path, environment: Mapping[str, str] | None = None, check: bool = True) -> str:
        """What a command prints that root gives there; raises AssertionError where it fails and ``check`` is set."""
        words = [f"{name}={value}" for name, value in {"HOME": "/root", **(environment or {})}.items()]
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run(
            ["nsenter", f"--target={self._first()}", "--mount", "--pid", "--cgroup", "--wd=/",
             "env", "-i", path, *words, *map(str, command)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def restart(self) -> None:
        """Have the system end all that runs, as before a machine starts anew, and wait until it has."""
        self.run("systemctl", "reboot", check=False)
        self._process.wait(timeout=DEADLINE_S)

    def await_start(self) -> None:
        """Wait until its manager answers."""
        end_s = time.monotonic() + DEADLINE_S
        while self.run("systemctl", "is-system-running", check=False).strip() not in ("running", "degraded"):
            assert self._process.poll() is None
            assert time.monotonic() < end_s, self.run("systemctl", "list-jobs", "--no-pager", check=False)
            time.sleep(0.2)

    def _first(self) -> str:
        """Its first process, as this machine knows it."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        end_s = time.monotonic() + DEADLINE_S
        while not (children := path.read_text().split()):
            assert time.monotonic() < end_s
            time.sleep(0.05)
        return children[0]


@contextmanager
def booted(root: Path, folders: Sequence[Path]) -> Iterator[BootedSystem]:
    """The system in ``root``, up until it is left or has powered off.

    ``folders`` of this machine are found there, too, and can't be written to.
    """
    assert os.geteuid() == 0, "a system in a folder is started by root: repeat with sudo"
    world = ["--cgroup", "--uts", "--ipc", "sh", "-c", _WORLD, "sh", str(root), *map(str, folders)]
    process = subprocess.Popen(
        [*ALONE, *world], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, text=True,
    )  # fmt: skip
    try:
        system = BootedSystem(process)
        system.await_start()
        yield system
    finally:
        end(process)
