"""What tests of the command line start from: the command, and a home with a model that it added."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.recorder import Recorder

CLI = (sys.executable, "-m", "orchestrator.cli")


@dataclass(frozen=True)
class AddedModel:
    """Where ``linguabus model add`` put the model ``tiny``, and what it did besides."""

    home: Path
    recorder: Recorder | None
