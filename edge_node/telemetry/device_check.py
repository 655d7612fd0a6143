"""A look at the device: libraries, memory, disk, power, and what Android does to programs. Nothing here is fatal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from broker.credential import FILE, Credential
from broker.disk_check import check_disk
from broker.errors import CredentialUnusable
from edge_node.telemetry import device
from edge_node.telemetry.battery import TERMUX_COMMAND, kernel_battery, termux_battery
from edge_node.telemetry.system_command import NoReading, output_of
from schemas.finding import Finding, failed, ok, warning
from schemas.roles import with_article
from schemas.system_limits import TooFewFiles, allow_many_files

OLDEST_PYTHON = (3, 11)
LEAST_ONNXRUNTIME = (1, 24, 4)
"""Earlier ones open any file that a graph names."""
LOW_MEMORY_BYTES, LEAST_MEMORY_BYTES = 300 * 10**6, 100 * 10**6
LOW_DISK_BYTES, LEAST_DISK_BYTES = 500 * 10**6, 20 * 10**6
LOW_BATTERY_PERCENT, HOT_C = 15.0, 45.0
_IMPORT_TIMEOUT_S = 120.0
_READER_TIMEOUT_S = 10.0
_PHANTOM_KILLER_SDK, _SWITCH_SDK = 31, 34
"""Android 12 ends programs of which it thinks that there are too many; from 14 on there is a switch in its settings."""
_OPERATORS = {
    "attention": ("GroupQueryAttention", "SkipSimplifiedLayerNormalization", "MatMulNBits"),
    "state": ("CausalConvWithState", "LinearAttention"),
}
_LOOK_AT_ONNXRUNTIME = """
import json, onnxruntime
try:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    operators = sorted({schema.name for schema in get_all_operator_schema() if schema.domain == "com.microsoft"})
except ImportError:
    operators = None
print(json.dumps([onnxruntime.__version__, onnxruntime.get_available_providers(), operators]))
"""


def check_device(home: Path, *, member: bool) -> Iterator[Finding]:
    """Look at everything that a node needs of its device.

    Args:
        home: the node's folder.
        member: it belongs to a fleet, or should; not where a broker was named.
    """
    yield _check_python()
    yield from check_libraries()
    yield check_disk(
        home,
        least_bytes=LEAST_DISK_BYTES,
        low_bytes=LOW_DISK_BYTES,
        low_remedy="parts of small models only: make room, or give another folder with --home",
        failed_remedy="see what it says",
    )
    if member:
        yield _check_credential(home / FILE)
    yield _check_memory()
    yield _check_files()
    yield from _check_power()
    yield from _check_android()


def is_termux() -> bool:
    """Is this Termux, on Android?"""
    return "com.termux" in os.environ.get("PREFIX", "")


def _install(package: str) -> str:
    return f"pkg install {package}" if is_termux() else "pip install 'linguabus[edge]'"


def _check_python() -> Finding:
    version = sys.version.partition(" ")[0]
    if sys.version_info < OLDEST_PYTHON:
        return failed("python", f"{version} is too old", "install Python 3.11 or newer")
    return ok("python", version)


def check_libraries() -> Iterator[Finding]:
    """NumPy and ONNX Runtime, each in a process of its own: one that was built for another processor ends it."""
    yield _import("numpy", "import json, numpy; print(json.dumps([numpy.__version__]))", "python-numpy")[1]
    facts, finding = _import("onnxruntime", _LOOK_AT_ONNXRUNTIME, "python-onnxruntime")
    if facts is None:
        yield finding
        return
    version, _, operators = facts
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    least = ".".join(map(str, LEAST_ONNXRUNTIME))
    if numbers < LEAST_ONNXRUNTIME:
        yield failed("onnxruntime", f"{version} opens files that a model names", f"take {least} or newer: {_upgrade()}")
    else:
        yield finding
    if operators is None:
        return
    missing = [name for name in _OPERATORS["attention"] if name not in operators]
    if missing:
        yield failed("operators", f"this ONNX Runtime has no {', '.join(missing)}", _upgrade())
    elif absent := [name for name in _OPERATORS["state"] if name not in operators]:
        said = f"this ONNX Runtime has no {', '.join(absent)}: models such as Qwen3.5 and LFM2 can't run here"
        yield warning("operators", said, _upgrade())
    else:
        yield ok("operators", f"{len(operators)} beside ONNX's own")


def _upgrade() -> str:
    return "pkg upgrade" if is_termux() else "pip install --upgrade onnxruntime"


def _import(name: str, program: str, package: str) -> tuple[list[Any] | None, Finding]:
    """What a program that imports a library prints, and what there is to say."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"from schemas.usage_reports import turn_off\nturn_off()\n{program}"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"can't be imported within {_IMPORT_TIMEOUT_S:.0f} s"
        return None, failed(name, said, "end other programs, and try again")
    if done.returncode < 0:
        said = f"importing it ends the program (signal {-done.returncode})"
        remedy = f"it was built for another processor: {_install(package)} anew, or use proot-distro's Debian"
        return None, failed(name, said, remedy)
    try:
        facts: list[Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = done.stderr.strip().splitlines()
        missing = bool(lines) and "ModuleNotFoundError" in lines[-1] and f"'{name}'" in lines[-1]
        said = "is missing" if missing else f"can't be imported ({(lines or ['no reason given'])[-1][:200]})"
        return None, failed(name, said, _install(package))
    return facts, ok(name, str(facts[0]))


def _check_credential(path: Path) -> Finding:
    try:
        credential = Credential.load(path)
    except CredentialUnusable as error:
        return failed("credential", str(error), "on the fleet's host: linguabus invite NAME; here: paste its line")
    if credential is None:
        return failed(
            "credential",
            "this device has joined no fleet",
            "on the fleet's host: linguabus invite NAME; here: paste its line",
        )
    if credential.role != "node":
        return failed(
            "credential",
            f"{credential.name} is {with_article(credential.role)}",
            "join as a node: linguabus invite NAME",
        )
    if path.stat().st_mode & 0o077:
        return failed("credential", f"others on this device can read {path}", f"chmod 600 {path}")
    return ok("credential", f"a node by the name of {credential.name}")


def _check_memory() -> Finding:
    free_bytes = device.available_bytes()
    for_node_bytes = device.memory_budget_bytes(None, 0, free_bytes)
    said = f"{free_bytes / 1e6:,.0f} MB free, {for_node_bytes / 1e6:,.0f} MB of them for a node"
    if free_bytes < LEAST_MEMORY_BYTES:
        return failed("memory", said, "end other programs")
    if free_bytes < LOW_MEMORY_BYTES:
        return warning("memory", said, "a few layers at most: end other programs")
    return ok("memory", said)


def _check_files() -> Finding:
    try:
        said = allow_many_files()
    except TooFewFiles as error:
        return failed("open files", str(error), "ulimit -n 4096")
    return warning("open files", said, "ulimit -n 4096") if said else ok("open files", "enough")


def _check_power() -> Iterator[Finding]:
    """Battery and heat, by the ways that a node reads them."""
    battery = kernel_battery()
    if shutil.which(TERMUX_COMMAND):
        try:
            battery = termux_battery()
        except NoReading as error:
            yield warning(
                "battery",
                f"{TERMUX_COMMAND} tells nothing ({error})",
                "install the app Termux:API too, open it once, and allow it to run in the background",
            )
    elif is_termux():
        yield warning(
            "battery",
            "unknown: a node that is not charging serves until it is empty",
            "pkg install termux-api, and install the app Termux:API",
        )
    if battery is not None:
        said = f"{battery.percent:.0f} %, {'' if battery.charging else 'not '}charging"
        if battery.percent < LOW_BATTERY_PERCENT and not battery.charging:
            yield warning("battery", said, "it gets no layers like that: charge it")
        else:
            yield ok("battery", said)
    readings = (battery.temperature_c if battery else None, device.temperature_c())
    if hottest := max((reading for reading in readings if reading is not None), default=None):
        said = f"{hottest:.0f} degrees Celsius"
        hot = battery is not None and (battery.temperature_c or 0.0) >= HOT_C
        yield warning("heat", said, "it gets no layers like that: let it cool down") if hot else ok("heat", said)


def _check_android() -> Iterator[Finding]:
    if not shutil.which("getprop"):
        return
    try:
        sdk = int(output_of("getprop", "ro.build.version.sdk", timeout_s=_READER_TIMEOUT_S))
    except (NoReading, ValueError):
        yield warning("android", "its version is not known", "say so in a report: linguabus doctor --report FILE")
        return
    if sdk < _PHANTOM_KILLER_SDK:
        yield ok("android", f"SDK {sdk}, which lets background programs live")
    elif sdk >= _SWITCH_SDK:
        yield warning(
            "android",
            f"SDK {sdk} ends background programs that it takes for too many or too busy",
            "settings, developer options: 'Disable child process restrictions'; battery: unrestricted for Termux",
        )
    else:
        yield warning(
            "android",
            f"SDK {sdk} ends background programs that it takes for too many or too busy",
            "by adb: settings put global settings_enable_monitor_phantom_procs false; battery: unrestricted for Termux",
        )
