"""The script of ``completion``, read by a real bash: words are completed as its readline would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.completion import SHELLS
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

PROGRAMS = {"linguabus": "orchestrator.cli", "linguabus-node": "edge_node"}
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


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is for bash")
@pytest.mark.parametrize(
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
def test_bash_completes(program: str, words: str, completed: set[str], environment: dict[str, str]) -> None:
    script = COMPLETE.format(program=program, function=program.replace("-", "_"), words=words, count=len(words.split()))
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        timeout=DEADLINE_S,
    )  # fmt: skip
    assert (set(done.stdout.split()), done.stderr) == (completed, "")


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(program: str, shell: str, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [program, "completion", shell], env=environment, capture_output=True, text=True, check=True, timeout=DEADLINE_S
    )
    assert f"_{program.replace('-', '_').upper()}_COMPLETE" in done.stdout
