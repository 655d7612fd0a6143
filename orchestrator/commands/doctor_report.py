"""The file of ``linguabus doctor --report``: findings and facts of a device, without keys, names and addresses.

It asks for what nobody could try without the device, above all on a phone.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable
from broker.private_file import write_private
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.finding import Finding

_TIMEOUT_S = 10.0
_LIBRARIES = ("onnxruntime", "numpy", "paho-mqtt", "click", "PyYAML", "psutil")
_PROPERTIES = ("ro.product.manufacturer", "ro.product.model", "ro.build.version.release", "ro.build.version.sdk")
_COMMANDS = ("termux-battery-status", "termux-wake-lock", "termux-notification", "sv", "proot-distro", "mosquitto")
_READABLE = (
    "/proc/meminfo", "/proc/self/status", "/proc/self/clear_refs", "/sys/class/thermal", "/sys/class/power_supply",
    "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq",
)  # fmt: skip
_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4})(?![\w.])")
QUESTIONS = (
    "What phone is it, and how old? Is it charging, and in what case or place does it lie?",
    "Did each of the README's lines for a phone work? Which one did not, and what did it print?",
    "How long did it take from the first line until 'linguabus nodes' on the host showed this device?",
    "With the screen off: is it still shown after 10 minutes, after an hour, over night?",
    "Did Android end Termux or the node? What had been set for the battery, and for child processes?",
    "What does 'linguabus bench' on the host say with this device in the ring, and how hot did it become?",
    "How much of its charge does an hour cost, serving and idle?",
    "What happened when it left the Wi-Fi and came back, and after a restart of the phone?",
)
"""What has never been seen on a real phone by those who wrote this."""


def write_report(path: Path, found: Sequence[tuple[str, Finding]], home: Path) -> None:
    """Write the report, for its owner to read before it is sent.

    Raises:
        OSError: it can't be written.
    """
    hidden = _private_words(home)
    findings = [{"as": role, "check": f.check, "state": f.state, "said": _without(f.said, hidden)} for role, f in found]
    report: dict[str, Any] = {"findings": findings, "facts": facts(), "questions": dict.fromkeys(QUESTIONS, "")}
    text = yaml.safe_dump(report, sort_keys=False, allow_unicode=True, width=120)
    write_private(path.absolute(), text)


def facts() -> dict[str, Any]:
    """What may matter about this device, each figure where it can be had."""
    return {
        "linguabus": f"{PACKAGE_VERSION}, protocol {PROTOCOL_VERSION}",
        "python": sys.version.partition(" ")[0],
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "termux": os.environ.get("TERMUX_VERSION"),
        "android": {name: _property(name) for name in _PROPERTIES} if shutil.which("getprop") else None,
        "processors": os.cpu_count(),
        "frequencies_khz": _frequencies(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "commands": {name: shutil.which(name) is not None for name in _COMMANDS},
        "readable": {name: os.access(name, os.R_OK) for name in _READABLE},
        "memory_kb": _memory(),
    }


def _property(name: str) -> str | None:
    try:
        done = subprocess.run(["getprop", name], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()[:100]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _frequencies() -> list[int]:
    """The highest frequency of each core: which ones are big."""
    found = []
    for core in range(os.cpu_count() or 0):
        try:
            text = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq").read_text("ascii")
            found.append(int(text))
        except (OSError, ValueError):
            continue
    return found


def _memory() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return {}
    wanted = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    fields = (line.split() for line in lines)
    return {name: int(value) for name, value, *_ in ((f[0].rstrip(":"), *f[1:]) for f in fields) if name in wanted}


# --- what stays here ------------------------------------------------------------------------------------------


def _private_words(home: Path) -> dict[str, str]:
    """What is not told, and what stands in its place."""
    words = {str(Path.home()): "~", platform.node(): "THIS-HOST"}
    for file in (home / FILE, home / "node" / FILE, home / "fleet" / "orchestrator.json"):
        try:
            credential = Credential.load(file)
        except CredentialUnusable:
            continue
        if credential:
            words |= {credential.key: "KEY", credential.name: "NAME"}
            words |= {address: "ADDRESS" for address in credential.addresses if "." in address}
    return {word: instead for word, instead in words.items() if word}


def _without(text: str, hidden: dict[str, str]) -> str:
    for word in sorted(hidden, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", hidden[word], text)
    return _ADDRESS.sub("ADDRESS", text)
