"""A 64-bit ARM machine: Debian's Python for it, the wheels that a node gets there, and a chip that QEMU plays.

The root file system and the wheels are made once, in the user's cache.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from orchestrator.commands.settings import default_cache
from tests.support.debian_packages import made_once, unpack_packages
from tests.support.repository import ROOT
from tests.support.wheels import unpack_wheels

_WHEELS = "wheels"
_SYSTEM = ("python3", "libstdc++6")
_HANDLERS = Path("/proc/sys/fs/binfmt_misc")
_HANDLER = "qemu-aarch64-linguabus"
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
"""The head of such a program, and which of its bits count."""
_LAUNCHER = """\
#!/bin/sh
exec {qemu} -cpu {chip} -L {machine} -E PYTHONHOME={root}/usr -E PYTHONPATH={root}/{wheels} -0 "$0" \
{root}/usr/bin/python3 "$@"
"""


@dataclass(frozen=True)
class Chip:
    """A processor by its name in QEMU, its part number and what it can do, as /proc/cpuinfo has it."""

    name: str
    part: int
    features: str


CHIPS = (
    Chip("cortex-a53", 0xD03, "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    Chip(
        "cortex-a76",
        0xD0B,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs",
    ),
)
"""One of cheap phones and the Raspberry Pi 3, one of better phones and the Raspberry Pi 5, with products of int8."""


def arm64_python(chip: Chip, folder: Path) -> str:
    """A Python on such a chip that has what a node needs; ``folder`` is for what the machine has of its own.

    It can start itself again (``sys.executable``), as nodes do. On 64-bit ARM it is this Python, on the real chip.
    """
    if platform.machine() == "aarch64":
        return sys.executable
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    assert qemu, "QEMU is missing: use `make test-arm64`"
    root = _root()
    for part in root.iterdir():
        (folder / part.name).symlink_to(part)
    # What is not here QEMU takes from this machine.
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(cpuinfo(chip))
    launcher = folder / "python"
    launcher.write_text(_LAUNCHER.format(qemu=qemu, chip=chip.name, machine=folder, root=root, wheels=_WHEELS))
    launcher.chmod(0o755)
    return str(launcher)


def cpuinfo(chip: Chip) -> str:
    """What /proc/cpuinfo has there.

    ONNX Runtime learns from it what the chip can do: it crashes on the file of another architecture, and uses
    instructions that are not there on the file of another chip.
    """
    return "".join(
        f"processor\t: {number}\nBogoMIPS\t: 100.00\nFeatures\t: {chip.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {chip.part:#x}\nCPU revision\t: 4\n\n"
        for number in range(os.cpu_count() or 1)
    )


@contextmanager
def arm64_programs() -> Iterator[None]:
    """In the block the kernel starts programs for 64-bit ARM by QEMU, wherever they lie; this is root's to arrange."""
    if platform.machine() == "aarch64" or any(_is_on(handler) for handler in _HANDLERS.glob("qemu-aarch64*")):
        yield
        return
    qemu = shutil.which("qemu-aarch64-static")
    assert qemu, "QEMU is missing: use `make test-arm64`"
    with ExitStack() as stack:
        if not (_HANDLERS / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "none", _HANDLERS], check=True)
            stack.callback(subprocess.run, ["umount", _HANDLERS], check=True)
        (_HANDLERS / "register").write_text(f":{_HANDLER}:M::{_MAGIC}:{_MASK}:{qemu}:F")
        stack.callback((_HANDLERS / _HANDLER).write_text, "-1")
        yield


def _is_on(handler: Path) -> bool:
    return handler.read_text().startswith("enabled")


def _root() -> Path:
    """The root file system with the wheels; made where it is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    # The same ONNX Runtime as here: the architecture is what differs.
    wanted = [
        *project["dependencies"],
        *(line for line in project["optional-dependencies"]["edge"] if not line.startswith("onnxruntime")),
        f"onnxruntime=={version('onnxruntime')}",
    ]
    key = hashlib.sha256("\n".join((*_SYSTEM, *wanted)).encode()).hexdigest()[:12]

    def make(root: Path) -> None:
        unpack_packages(_SYSTEM, root, architecture="arm64")
        if not (root / "lib").exists():  # as of Debian 13 a package of its own makes this link
            (root / "lib").symlink_to("usr/lib")
        python = (root / "usr" / "bin" / "python3").readlink().name.removeprefix("python")
        unpack_wheels(root / _WHEELS, wanted, python=python, machine="aarch64")

    return made_once(default_cache() / "arm64" / key, make)
