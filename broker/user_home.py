"""The home directory of who runs a program."""

from __future__ import annotations

import os
from pathlib import Path


def user_home() -> Path:
    """As `Path.home`, which takes an empty HOME for the root of all files.

    Raises:
        RuntimeError: HOME is empty, or is not set and the system does not know the user.
    """
    if os.environ.get("HOME") == "":
        raise RuntimeError("HOME is empty")
    return Path.home()
