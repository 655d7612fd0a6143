"""Requests made of the gateway's own description, right and wrong ones: nothing of them is more than it can take."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.polling import DEADLINE_S

ENDLESS = "^/api/fleet/(events|live)$"
"""Streams that have no end of their own."""


def try_out(root: str, folder: Path, *options: str, timeout_s: float) -> None:
    """Have schemathesis, in a folder of its own, look for answers that say that the gateway has failed."""
    command = [
        "schemathesis", "run", f"{root}/openapi.json", "--checks", "not_a_server_error",
        "--exclude-path-regex", ENDLESS, "--continue-on-failure", "--no-color",
        "--request-timeout", f"{DEADLINE_S}", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_that_is_asked_is_too_much(root: str, tmp_path: Path) -> None:
    options = ("--phases", "fuzzing", "--max-examples", "2", "--generation-deterministic")
    try_out(root, tmp_path, *options, timeout_s=4 * DEADLINE_S)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nothing_of_all_that_is_asked_is_too_much(root: str, tmp_path: Path) -> None:
    try_out(root, tmp_path, "--max-examples", "100", timeout_s=3600)
