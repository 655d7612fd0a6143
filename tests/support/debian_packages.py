"""Programs out of Debian's packages, unpacked into a folder: apt is asked beside the system, not for it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SOURCE = f"deb [signed-by={_KEYRING}] http://deb.debian.org/debian {{release}} main\n"


def unpack_packages(packages: Iterable[str], root: Path, *, architecture: str, release: str = "") -> None:
    """Debian's packages with all that they depend on, signatures checked.

    Args:
        release: such as ``forky``; empty: the one that this machine has.
    """
    with tempfile.TemporaryDirectory(dir=root.parent, prefix="apt-") as folder:
        _unpack(packages, root, Path(folder), architecture, release)


def _unpack(packages: Iterable[str], root: Path, folder: Path, architecture: str, release: str) -> None:
    archives = folder / "archives"
    for needed in (folder / "lists" / "partial", archives / "partial"):
        needed.mkdir(parents=True)
    (folder / "status").touch()
    settings = [
        f"APT::Architecture={architecture}", f"APT::Architectures={architecture}", "APT::Install-Recommends=false",
        "APT::Sandbox::User=root", f"Dir::State={folder}", f"Dir::State::status={folder}/status",
        f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}", f"Dir::Cache::archives={archives}",
    ]  # fmt: skip
    if release:
        (folder / "sources.list").write_text(_SOURCE.format(release=release))
        # A mirror may be some weeks behind; its index is signed all the same.
        settings += [
            f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null", "Acquire::Check-Valid-Until=false",
        ]  # fmt: skip
    apt = ["apt-get", "-qq", *(word for setting in settings for word in ("-o", setting))]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "install", "--yes", "--download-only", *packages], check=True, stdout=subprocess.DEVNULL)
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)


def made_once(root: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the user's cache, which ``make`` fills where it is not there."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix="unfinished-") as unfinished:
            made = Path(unfinished) / "root"
            made.mkdir()
            make(made)
            made.rename(root)
    return root
