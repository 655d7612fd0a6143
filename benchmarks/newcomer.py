"""A newcomer's path, timed: two commands to an answer in a browser, and one pasted line to a second device.

A wheel of this repository is installed into an empty environment, as pip is set up here and without its cache; then
``linguabus up`` runs in an empty home, is asked through what its page asks, and invites a device, which is another home
on this machine. It holds the model's head as soon as a plan asks for it; of its own accord a plan for so small a model
stays on one device. ``--quick`` leaves pip out, and takes this environment and a model that was fetched before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from harness import ROOT, Result, main, note

from broker.free_ports import free_ports
from orchestrator.commands.settings import default_cache
from tests.support.built_packages import Environment, bare, build_packages
from tests.support.fleet_world import HOST
from tests.support.terminal import terminal

EXTRAS = "orchestrator,convert"
"""As in README and docs/quick-start.md."""
DEVICE = "second"
QUESTION = "What is the capital of Japan?"
DEADLINE_S = 1_800.0
_POLL_S = 0.05
_T = TypeVar("_T")


def wait(look: Callable[[], _T | None]) -> _T:
    """What ``look`` finds, once it finds something."""
    end_s = time.monotonic() + DEADLINE_S
    while (found := look()) is None:
        if time.monotonic() > end_s:
            raise TimeoutError("that took too long")
        time.sleep(_POLL_S)
    return found


def asked(url: str, body: object = None) -> Any:
    """What the page's server answers: JSON, or text of what is none; None where it does not yet."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", "accept": "text/html, */*"})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            text = answer.read().decode()
            return json.loads(text) if answer.headers.get_content_type() == "application/json" else text
    except urllib.error.URLError:
        return None


def installed(folder: Path) -> tuple[list[str], float]:
    """``linguabus`` in an empty environment, and how long pip took."""
    note("building a wheel")
    wheel = build_packages(folder)["wheel"]
    environment = Environment.make(folder / "environment")
    note("pip install, into an empty environment")
    began_s = time.monotonic()
    environment.install("--no-cache-dir", f"{wheel}[{EXTRAS}]")
    return [str(environment.folder / "bin" / "linguabus")], time.monotonic() - began_s


def measure(quick: bool) -> list[Result]:
    """From pip install to an answer in a browser, and from there to a second device."""
    results: list[Result] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        linguabus = [sys.executable, "-m", "orchestrator.cli"]
        environment = bare(HOME=str(folder / "home"), XDG_CONFIG_HOME="", XDG_CACHE_HOME="")
        settings = folder / "home" / ".config" / "linguabus" / "config.yaml"
        settings.parent.mkdir(parents=True)
        broker, http, host = free_ports(3)  # those that are usual may be somebody's
        settings.write_text(
            f"init: {{listen: {HOST}, broker-port: {broker}, http-port: {http}, host-port: {host}}}\nup: {{port: 0}}\n"
        )
        if quick:
            environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(default_cache().parent)}
        else:
            (folder / "built").mkdir()
            linguabus, pip_s = installed(folder / "built")
            results.append(Result("pip install", pip_s, "s"))
        environment["PYTHONUNBUFFERED"] = "1"

        note("linguabus up, in an empty home")
        began_s = time.monotonic()
        up = stack.enter_context(terminal([*linguabus, "up"], environment, folder, folder / "up.log"))
        page = up.wait_for("in a browser: ", DEADLINE_S).split()[3]
        wait(lambda: asked(page))
        results.append(Result("linguabus up: the page is there", time.monotonic() - began_s, "s"))
        question = {"model": "default", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 24}
        wait(lambda: asked(f"{page}v1/chat/completions", question))
        results.append(Result("linguabus up: the first answer is there", time.monotonic() - began_s, "s"))

        def command(*words: str) -> str:
            done = subprocess.run(
                [*linguabus, *words], env=environment, cwd=folder, capture_output=True, text=True, check=True
            )
            return done.stdout

        note("the line of linguabus invite --phone, in another home")
        line = command("invite", DEVICE, "--phone")
        (folder / DEVICE).mkdir()
        began_s = time.monotonic()
        pasted = bare(HOME=str(folder / DEVICE), PIP_NO_CACHE_DIR="1", XDG_CONFIG_HOME="", XDG_CACHE_HOME="")
        stack.enter_context(terminal(["sh", "-c", line], pasted, folder, folder / "second.log"))
        wait(lambda: DEVICE in {one["node"] for one in asked(f"{page}api/fleet/nodes")["nodes"]} or None)
        results.append(Result("the pasted line: the fleet has the device", time.monotonic() - began_s, "s"))
        began_s = time.monotonic()
        command("plan", "apply", "--pin", f"head={DEVICE}")
        wait(lambda: DEVICE in {one["node"] for one in asked(f"{page}api/fleet/plan")["stages"]} or None)
        results.append(Result("the device has layers, once a plan wants it", time.monotonic() - began_s, "s"))
    return results


if __name__ == "__main__":
    main("newcomer", measure)
