"""The Mosquitto of Debian's next release, on a machine that has an older one; it is made once, in the user's cache.

It runs beside the system, with its own C library.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from broker.local_broker import mosquitto_version
from orchestrator.commands.settings import default_cache
from tests.support.debian_packages import made_once, unpack_packages

_RELEASE = "forky"
_LOADER = "mosquitto-loader"
_LAUNCHER = f"""\
#!/bin/sh
root=$(dirname "$0")/..
exec "$root"/bin/{_LOADER} --library-path "$(echo "$root"/usr/lib/*-linux-gnu)" --argv0 mosquitto \
"$root"/usr/sbin/mosquitto "$@"
"""


def use_newer_mosquitto() -> None:
    """Let this process and those that it starts find Mosquitto 2.1 as `mosquitto`; made where it is not there."""
    folder = newer_mosquitto().parent
    os.environ["PATH"] = os.pathsep.join((str(folder), os.environ["PATH"]))


def newer_mosquitto() -> Path:
    """The program; made where it is not there."""
    found = made_once(default_cache() / "mosquitto" / _RELEASE, _make) / "bin" / "mosquitto"
    version = mosquitto_version(str(found))
    assert version.startswith("2.1."), f"{found} is {version}: remove its folder {found.parents[1]} and repeat"
    return found


def _make(root: Path) -> None:
    said = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    unpack_packages(["mosquitto"], root, architecture=said.stdout.strip(), release=_RELEASE)
    (loader,) = (root / "usr" / "lib").glob("*-linux-gnu/ld-linux-*.so.*")
    subprocess.run(
        ["/sbin/ldconfig", "-n", loader.parent], check=True
    )  # links that packages make when they are installed
    folder = root / "bin"
    folder.mkdir()
    # The process has the name of what was started: who signals Mosquitto looks at that.
    (folder / _LOADER).symlink_to(Path("..") / loader.relative_to(root))
    launcher = folder / "mosquitto"
    launcher.write_text(_LAUNCHER)
    launcher.chmod(0o755)


if __name__ == "__main__":
    newer_mosquitto()
