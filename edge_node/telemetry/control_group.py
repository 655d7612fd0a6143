"""The control groups that this process's memory counts in: limits of containers and services, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_RECLAIMABLE = ("active_file", "inactive_file")
"""Pages of files, which the kernel takes back before it ends a process."""
_LEAST_UNLIMITED = 1 << 60
"""Version 1 says a number as large as this where there is no limit."""


def available_bytes() -> int | None:
    """Memory that the tightest of the groups could still give; None where none has a limit."""
    left = [left_bytes for group in _groups() if (left_bytes := _left_bytes(group)) is not None]
    return min(left, default=None)


def stalled_percent() -> float | None:
    """For how much of the last ten seconds all of the system's, or of a group's, work waited for memory; None where the
    kernel does not tell."""
    files = [Path("/proc/pressure/memory"), *(group / "memory.pressure" for group in _groups())]
    found = [percent for file in files if (percent := _stalled_percent(file)) is not None]
    return max(found, default=None)


def _groups() -> Iterator[Path]:
    """Folders of the groups, from this process's own to the outermost that can be seen."""
    for mount, root, version in _mounts():
        own = _own_path(version)
        if own is None:
            continue
        try:
            inside = PurePosixPath(own).relative_to(root)
        except ValueError:  # the group is beyond what is mounted here
            inside = PurePosixPath()
        folder = mount / inside if ".." not in inside.parts else mount
        while True:
            yield folder
            if folder == mount:
                break
            folder = folder.parent


def _mounts() -> Iterator[tuple[Path, str, int]]:
    """Where groups that may count memory are mounted, what their root is there, and the version."""
    for line in _lines(Path("/proc/self/mountinfo")):
        place, _, kind = line.partition(" - ")
        fields, of_kind = place.split(), kind.split()
        if len(fields) < 5 or len(of_kind) < 3:
            continue
        if of_kind[0] == "cgroup2":
            yield Path(fields[4]), fields[3], 2
        elif of_kind[0] == "cgroup" and "memory" in of_kind[2].split(","):
            yield Path(fields[4]), fields[3], 1


def _own_path(version: int) -> str | None:
    for line in _lines(Path("/proc/self/cgroup")):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if version == 2 else "memory" in controllers.split(","):
            return path
    return None


def _left_bytes(group: Path) -> int | None:
    """What a group may still take, pages of files counted as free; None where it has no limit."""
    limits = [_number(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limit_bytes = min((limit for limit in limits if limit is not None and limit < _LEAST_UNLIMITED), default=None)
    if limit_bytes is None:
        return None
    used_bytes = _number(group / "memory.current")
    if used_bytes is None:
        used_bytes = _number(group / "memory.usage_in_bytes")
    if used_bytes is None:
        return None
    stat = dict(fields for line in _lines(group / "memory.stat") if len(fields := line.split()) == 2)
    # Version 1 counts a group's children in its totals alone.
    reclaimable = sum(int(stat.get(f"total_{name}") or stat.get(name) or 0) for name in _RECLAIMABLE)
    return max(0, limit_bytes - max(0, used_bytes - reclaimable))


def _stalled_percent(file: Path) -> float | None:
    for line in _lines(file):
        kind, *fields = line.split()
        if kind == "full" and fields and fields[0].startswith("avg10="):
            try:
                return min(max(float(fields[0].removeprefix("avg10=")), 0.0), 100.0)
            except ValueError:
                return None
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, ValueError):
        return []
