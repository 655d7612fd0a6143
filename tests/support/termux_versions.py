"""Tests with the versions that Termux has: Python 3.14 and Mosquitto 2.1, out of Debian sid.

    python -m tests.support.termux_versions [--onnxruntime oldest|newest|VERSION] [PYTEST'S ARGUMENTS]

Pytest runs in a Debian of its own, as a user without rights, who can write nothing but a folder for what is passing.
Each warning is an error, in the processes that tests start, too. What an orchestrator and the tests need besides comes
as wheels, ONNX Runtime as well: Debian's own is older than what a node takes. Without an option the tests run twice,
with the oldest that a node takes and with the newest.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from orchestrator.model.store import ModelStore
from tests.support.debian_packages import made_once
from tests.support.debian_system import DebianSystem, debian_system, end
from tests.support.repository import ROOT
from tests.support.tiny_store import add_tiny
from tests.support.wheels import unpack_wheels, version_there

PACKAGES = (
    "ca-certificates", "mosquitto", "procps", "python3", "python3-numpy", "python3-psutil", "strace",
)  # fmt: skip
UID = 10_234
RUNTIMES = ("oldest", "newest")
_PASSING = "/tmp"
_WHEELS, _RUNTIMES = "opt/wheels", "opt/onnxruntime"
_FOR_CHECKS = ("mypy", "ruff", "shellcheck", "types-")


def termux_versions() -> Path:
    """The system; made where it is not there."""
    root = debian_system("sid", PACKAGES)
    python = _python_of(root)

    wanted = _wanted()
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]

    def make(folder: Path) -> None:
        unpack_wheels(folder, wanted, python=python, machine=platform.machine())

    wheels = made_once(root / _WHEELS / key, make)
    # Behind Debian's own: those are the ones to be tested.
    here = root / "usr" / "local" / "lib" / f"python{python}" / "dist-packages"
    here.mkdir(parents=True, exist_ok=True)
    (here / "wheels.pth").write_text(f"/{wheels.relative_to(root)}\n")
    return root


def run_tests(root: Path, store: Path, runtime: Path, arguments: list[str]) -> int:
    """Pytest's exit code, once all that it has started is gone; ``runtime`` is a folder of `onnxruntime_of`."""
    with tempfile.TemporaryDirectory(prefix="lb-termux-") as name:
        passing = Path(name)
        shutil.copytree(store, passing / "tiny")
        (passing / "home").mkdir()
        for path in (passing, *passing.rglob("*")):
            shutil.chown(path, UID, UID)
        environment = {
            "HOME": f"{_PASSING}/home", "TMPDIR": _PASSING, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "PYTHONPATH": f"/{runtime.relative_to(root)}",
            "PYTHONWARNINGS": "error",
        }  # fmt: skip
        command = ["python3", "-m", "pytest", "-p", "no:cacheprovider", f"--tiny-store={_PASSING}/tiny", *arguments]
        system = DebianSystem(root, is_read_only=True, binds={ROOT: "/src", passing: _PASSING})
        print(f"==> Python {_python_of(root)}, ONNX Runtime {runtime.name}", flush=True)
        process = system.start(command, uid=UID, folder="/src", environment=environment)
        try:
            return process.wait()
        finally:
            end(process)


def onnxruntime_of(root: Path, which: str) -> Path:
    """The folder, made once, from which a version is imported, or the "oldest" or "newest" that a node takes."""
    there = {"python": _python_of(root), "machine": platform.machine()}
    version = which
    if which == "oldest":
        edge = _project()["optional-dependencies"]["edge"]
        (version,) = [line.partition(">=")[2] for line in edge if line.startswith("onnxruntime>=")]
    elif which == "newest":
        version = version_there("onnxruntime", **there)

    def make(folder: Path) -> None:
        unpack_wheels(folder, [f"onnxruntime=={version}"], needs=False, **there)

    return made_once(root / _RUNTIMES / version, make)


def _python_of(root: Path) -> str:
    return (root / "usr" / "bin" / "python3").readlink().name.removeprefix("python")


def _project() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _wanted() -> list[str]:
    project = _project()
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"], *extras["orchestrator"],
        *(line for line in extras["dev"] if not re.match("|".join(_FOR_CHECKS), line)),
    ]  # fmt: skip


def main() -> None:
    """Run the tests; the exit code is that of the first run that failed."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--onnxruntime", action="append")
    options, arguments = parser.parse_known_args()
    root = termux_versions()
    with tempfile.TemporaryDirectory(prefix="lb-tiny-") as folder:
        store = ModelStore(Path(folder) / "home")
        add_tiny(store)
        runtimes = [onnxruntime_of(root, which) for which in options.onnxruntime or RUNTIMES]
        codes = [run_tests(root, store.home, runtime, arguments) for runtime in runtimes]
    sys.exit(next(filter(None, codes), 0))


if __name__ == "__main__":
    main()
