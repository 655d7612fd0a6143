"""A Mosquitto that enforces the roles. Names are believed: whoever connects as a user has that user's role."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.broker_roles import acl_text
from tests.support.configured_broker import configured_broker


@contextmanager
def guarded_broker(folder: Path, **names: list[str]) -> Iterator[int]:
    """Its port on this machine; ``names`` are `acl_text`'s."""
    acl = folder / "roles.acl"
    acl.write_text(acl_text(**names))
    acl.chmod(0o600)
    if shutil.which("chown"):
        subprocess.run(["chown", "mosquitto", str(acl)], stderr=subprocess.DEVNULL, check=False)
    with configured_broker(folder, f"acl_file {acl}") as port:
        yield port
