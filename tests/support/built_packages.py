"""linguabus as a wheel and as a source archive, as for the package index, and environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.support.repository import ROOT

_BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "schemas", "broker", "edge_node", "orchestrator")
_BUILD = "from setuptools import build_meta; print(build_meta.build_{kind}({target!r}))"


def bare(**more: str) -> dict[str, str]:
    """This process's environment variables without those that lead to this repository, and with some more."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LINGUABUS"))}
    return {**kept, **more}


@dataclass(frozen=True)
class Environment:
    """One that has nothing of this repository."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Environment:
        """A fresh one, with pip alone."""
        venv.create(folder, with_pip=True)
        return cls(folder)

    def install(self, *wanted: str) -> None:
        """By its pip."""
        self.run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)

    def run(
        self, program: str, *arguments: str, folder: Path | None = None, fails: bool = False, **environment: str
    ) -> str:
        """What one of its programs prints; where it fails, on stderr."""
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments], cwd=folder or self.folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, env=bare(**environment),
        )  # fmt: skip
        assert bool(done.returncode) == fails, f"{program} {arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stderr if fails else done.stdout


def build_packages(folder: Path) -> dict[str, Path]:
    """The two files: "wheel" and "sdist"."""
    source = folder / "source"  # a copy, as building writes into its folder
    source.mkdir()
    for name in _BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    builder = Environment.make(folder / "builder")
    builder.install(*tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["build-system"]["requires"])
    built = {}
    for kind in ("wheel", "sdist"):
        target = str(folder / kind)
        (folder / kind).mkdir()
        said = builder.run("python", "-c", _BUILD.format(kind=kind, target=target), folder=source)
        built[kind] = folder / kind / said.splitlines()[-1]
    return built
