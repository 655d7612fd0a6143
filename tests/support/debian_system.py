"""A whole Debian in a folder, of any release and architecture, whose programs run as if it were the machine.

Its systems are made by debootstrap, once, in the user's cache; that needs root. Programs have a world of mounts and
processes of their own: when what was started ends, or is ended, nothing of it runs or is mounted any more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.commands.settings import default_cache
from tests.support.debian_packages import made_once

# Ended with this process, also where it is killed.
ALONE = (
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--propagation",
    "private",
    "--pid",
    "--fork",
    "--kill-child",
)
_WORLD = """
set -e
root=$1 user=$2 is_kept=$3
shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root/$2"
    shift 2
done
shift
[ -n "$is_kept" ] || mount -o remount,ro,bind "$root"
# Not by exec: this shell, the first process of its world, takes in what programs leave behind.
chroot --userspec="$user:$user" --groups= "$root" env -i "$@" || exit
"""


@dataclass(frozen=True)
class DebianSystem:
    """One such system. What programs write into it stays, or, where that is said, can't be written."""

    root: Path
    is_read_only: bool = False
    binds: Mapping[Path, str] = field(default_factory=dict)
    """Files and folders of this machine, and where they are found inside: what is there already is covered."""

    def start(
        self,
        command: Sequence[str | Path],
        *,
        uid: int = 0,
        folder: str = "/",
        environment: Mapping[str, str],
        **how: Any,
    ) -> subprocess.Popen[str]:
        """Start a program; ``how`` is as for Popen. The caller ends it, with `end`."""
        binds: list[str] = []
        for source, target in self.binds.items():
            inside = self.root / target.lstrip("/")
            if source.is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            elif not inside.exists() and not target.startswith("/proc/"):
                inside.touch()
            binds += [str(source), target.lstrip("/")]
        kept = "" if self.is_read_only else "kept"
        words = [f"--chdir={folder}", *(f"{name}={value}" for name, value in environment.items()), *map(str, command)]
        world = ["sh", "-c", _WORLD, "sh", str(self.root), str(uid), kept, *binds, "--", *words]
        return subprocess.Popen([*ALONE, *world], stdin=subprocess.DEVNULL, start_new_session=True, text=True, **how)

    def run(self, command: Sequence[str | Path], **how: Any) -> str:
        """What a program prints that is expected to succeed; raises AssertionError with it."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
        try:
            said, _ = process.communicate()
        finally:
            end(process)
        assert process.returncode == 0, f"{command}: {process.returncode}\n{said[-4000:]}"
        return said


def end(process: subprocess.Popen[str]) -> None:
    """End a program of such a system, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def debian_system(release: str, packages: Sequence[str], *, architecture: str = "") -> Path:
    """Its folder, which stays as it was made; ``architecture`` is as dpkg says it, or empty: this machine's."""
    key = hashlib.sha256("\n".join((release, architecture, *packages)).encode()).hexdigest()[:12]

    def make(root: Path) -> None:
        command = [*ALONE, "debootstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        command += [f"--arch={architecture}"] if architecture else []
        log = root.parent / "debootstrap.log"
        with log.open("wb") as file:
            done = subprocess.run(
                [*command, release, root], stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False
            )
        assert done.returncode == 0, log.read_text(errors="replace")[-2000:]

    assert os.geteuid() == 0, "a Debian in a folder is made and entered by root: repeat with sudo"
    assert shutil.which("debootstrap"), "debootstrap is missing: run 'apt-get install debootstrap' and repeat"
    return made_once(default_cache() / "debian" / f"{release}-{key}", make)


@contextmanager
def fresh_copy(root: Path, folder: Path) -> Iterator[Path]:
    """A copy that may be written to, and is gone in the end."""
    copy = folder / "system"
    subprocess.run(["cp", "--archive", "--reflink=auto", root, copy], check=True)
    try:
        yield copy
    finally:
        shutil.rmtree(copy)
