"""llama.cpp with RPC, built once from the source package of llama-cpp-python and kept in the user's cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from harness import note

from orchestrator.commands.settings import default_cache

VERSION = "0.3.36"
SERVER = "ggml-rpc-server"
_PACKAGE = f"llama_cpp_python-{VERSION}"
_TARGETS = ("llama", SERVER)
_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_BUILD_RPATH_USE_ORIGIN": "ON",
    "GGML_NATIVE": "ON",
    "GGML_RPC": "ON",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
}
"""Native: for this machine's processor, as ONNX Runtime chooses its kernels when it runs."""


def built_folder() -> Path:
    """Where the build is kept: ``bin`` has libraries and the server, ``llama_cpp`` the Python binding."""
    return default_cache() / "llama.cpp" / VERSION


def is_built() -> bool:
    """Is it there?"""
    return (built_folder() / "bin" / SERVER).exists()


def build() -> None:
    """Build it, unless it is there: some 10 minutes on two cores, 0.5 GB meanwhile, 15 MB afterwards.

    Raises:
        RuntimeError: the package can't be downloaded, or does not build (CMake and a C++ compiler are needed).
    """
    if is_built():
        return
    folder = built_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch)
        note("downloading llama.cpp")
        pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-input", "--no-deps", "--no-cache-dir"]
        _run([*pip, "--no-binary", "llama-cpp-python", "--dest", scratch, f"llama-cpp-python=={VERSION}"])
        with tarfile.open(place / f"{_PACKAGE}.tar.gz") as archive:
            archive.extractall(place, filter="data")
        source = place / _PACKAGE
        note("building llama.cpp")
        options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
        _run(["cmake", "-S", str(source / "vendor" / "llama.cpp"), "-B", str(place / "build"), *options])
        _run(["cmake", "--build", str(place / "build"), "--parallel", "--target", *_TARGETS])
        ready = place / "ready"
        shutil.copytree(place / "build" / "bin", ready / "bin", symlinks=True)
        shutil.copytree(source / "llama_cpp", ready / "llama_cpp", ignore=shutil.ignore_patterns("server"))
        ready.rename(folder)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(f"llama.cpp can't be built: install {command[0]} and a C++ compiler") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise RuntimeError(f"llama.cpp can't be built: {command[0]} failed: {lines[-1]}")
