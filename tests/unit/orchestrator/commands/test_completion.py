"""The script of ``completion``, read by real shells: words are completed as somebody's who types them."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.completion import SHELLS
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

PROGRAMS = {"linguabus": "orchestrator.cli", "linguabus-node": "edge_node"}
PROMPT = "ready> "
COMPLETE = """
eval "$({program} completion bash)"
COMP_WORDS=({program} {words}) COMP_CWORD={count}
_{function}_completion {program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Both programs as they are installed."""
    for name, module in PROGRAMS.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tmp_path / name).chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


WORDS = pytest.mark.parametrize(
    ("program", "words", "completed"),
    [
        ("linguabus", "per", {"permit-join"}),
        ("linguabus", "serve --with", {"--with-broker"}),
        ("linguabus", "ask --json-", {"--json-schema", "--json-object"}),
        ("linguabus", "completion ''", set(SHELLS)),
        ("linguabus-node", "res", {"resume"}),
        ("linguabus-node", "--only-", {"--only-charging", "--only-wifi"}),
    ],
)


def has(shell: str) -> pytest.MarkDecorator:
    """On Linux all are there: the tests' set-up installs them."""
    missing = sys.platform == "darwin" and shutil.which(shell) is None
    return pytest.mark.skipif(missing, reason=f"it is for {shell}")


@has("bash")
@WORDS
def test_bash_completes(program: str, words: str, completed: set[str], environment: dict[str, str]) -> None:
    script = COMPLETE.format(program=program, function=program.replace("-", "_"), words=words, count=len(words.split()))
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert (set(done.stdout.split()), done.stderr) == (completed, "")


def fish_completes(line: str, environment: dict[str, str]) -> dict[str, str]:
    """What fish offers at the end of a line, and what it tells of that."""
    program = line.partition(" ")[0]
    script = f"{program} completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.stderr == ""
    pairs = (offered.partition("\t") for offered in done.stdout.splitlines() if offered)
    return {word: told for word, _, told in pairs}


@has("fish")
@WORDS
def test_fish_completes(program: str, words: str, completed: set[str], environment: dict[str, str]) -> None:
    assert set(fish_completes(f"{program} {words.removesuffix(chr(39) * 2)}", environment)) == completed


@has("fish")
def test_fish_tells_what_has_commas(environment: dict[str, str]) -> None:
    told = fish_completes("linguabus-node --only-c", environment)["--only-charging"]
    assert told.startswith("Rest, without layers, while the device is on no charger")


@has("zsh")
@WORDS
def test_zsh_completes(program: str, words: str, completed: set[str], environment: dict[str, str]) -> None:
    """In a terminal, without a ~/.zshrc that has loaded its completion."""
    line = f"{program} {words.removesuffix(chr(39) * 2)}"
    ours, its = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"], cwd=ROOT, env=environment | {"TERM": "dumb", "PS1": PROMPT}, stdin=its, stdout=its,
        stderr=its, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    try:
        shown_by(ours, lambda shown: PROMPT in shown)
        os.write(ours, f'eval "$({program} completion zsh)"\n'.encode())
        shown_by(ours, lambda shown: PROMPT in shown.partition("\n")[2])
        os.write(ours, f"{line}\t".encode())
        # One is written out; where there are several, their list is shown.
        shown_by(ours, lambda shown: completed <= set(re.findall(r"[\w-]+", shown)))
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def shown_by(terminal: int, is_enough: Callable[[str], bool]) -> None:
    """Read what a terminal shows until that is enough."""
    shown, end_s = "", time.monotonic() + DEADLINE_S
    while not is_enough(shown):
        assert select.select([terminal], [], [], max(0.0, end_s - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096).decode("utf-8", "replace")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(program: str, shell: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [program, "completion", shell], env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert f"_{program.replace('-', '_').upper()}_COMPLETE" in done.stdout
