"""Wheels for another Python or another architecture, fetched by this machine's pip with whatever it is set up with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_GLIBC_2 = range(17, 37)
"""Of the C libraries 2.x that a wheel may be made for; Debian 12 has 2.36."""


def unpack_wheels(target: Path, wanted: Iterable[str], *, python: str, machine: str, needs: bool = True) -> None:
    """Wheels, with all that they depend on unless ``needs`` says otherwise, ready to be imported from ``target``."""
    options = [] if needs else ["--no-deps"]
    _pip("install", *_for(python, machine), *options, f"--target={target}", *wanted)


def download_wheels(folder: Path, wanted: Iterable[str], *, python: str, machine: str) -> None:
    """The files, with all that they depend on."""
    _pip("download", *_for(python, machine), f"--dest={folder}", *wanted)


def version_there(requirement: str, *, python: str, machine: str) -> str:
    """The version that pip would take."""
    options = ("--dry-run", "--no-deps", "--ignore-installed", "--report=-", "--target=/nowhere")
    (found,) = json.loads(_pip("install", *_for(python, machine), *options, requirement))["install"]
    return str(found["metadata"]["version"])


def _for(python: str, machine: str) -> list[str]:
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC_2)]
    return ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}", *platforms]


def _pip(command: str, *arguments: str) -> str:
    line = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"pip {command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
