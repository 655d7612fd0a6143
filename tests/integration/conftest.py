"""A home with a model that the command line added, under the eyes of a recorder where there is one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.added_model import CLI, AddedModel
from tests.support.recorder import Recorder
from tests.support.tiny_models import make_checkpoint


@pytest.fixture(scope="session")
def added_model(tmp_path_factory: pytest.TempPathFactory) -> AddedModel:
    """Converted with Python's optimiser on, which takes away the docstrings that torch reads."""
    folder = tmp_path_factory.mktemp("added")
    checkpoint = make_checkpoint("llama", folder / "checkpoint")
    add = [*CLI, "model", "add", str(checkpoint), "--name", "tiny", "--precision", "fp32", "--profile", "exact"]
    if sys.platform != "linux":
        subprocess.run([*CLI, "--home", str(folder / "home"), *add[3:]], check=True)
        return AddedModel(folder / "home", None)
    recorder = Recorder(folder / "recorded")
    code, _, errors = recorder.run(*add, PYTHONOPTIMIZE="2")
    assert code == 0, errors
    return AddedModel(recorder.home / ".local" / "share" / "linguabus", recorder)
