"""What this process has in memory of mapped files (Linux)."""

from __future__ import annotations

from pathlib import Path


def resident_bytes(folder: Path) -> dict[Path, int]:
    """Resident bytes of each mapped file of a folder."""
    found, path = {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            path = Path(words[-1])
        elif words[0] == "Rss:" and path is not None and path.parent == folder:
            found[path] = int(words[1]) * 1024
    return found
