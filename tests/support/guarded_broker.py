"""A Mosquitto that enforces the roles. Names are believed: whoever connects as a user has that user's role."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from broker.roles import acl_text
from schemas.roles import Role
from tests.support.configured_broker import configured_broker


@contextmanager
def guarded_broker(folder: Path, members: Mapping[str, Role]) -> Iterator[int]:
    """Its port on this machine; members' roles by name."""
    acl = folder / "roles.acl"
    acl.write_text(acl_text(members.items()))
    acl.chmod(0o600)
    if shutil.which("chown"):
        subprocess.run(["chown", "mosquitto", str(acl)], stderr=subprocess.DEVNULL, check=False)
    with configured_broker(folder, f"acl_file {acl}") as port:
        yield port
