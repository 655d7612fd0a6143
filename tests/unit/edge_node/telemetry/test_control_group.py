"""Limits of control groups, by the files of a service, a container and a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.telemetry import control_group, device

MB = 10**6
V1 = "35 31 0:32 {root} /cg/memory rw,relatime - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 {root} /cg rw,relatime shared:4 - cgroup2 cgroup2 rw\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All absolute paths come from a folder."""

    def redirected(path: str) -> Path:
        return tmp_path / path.removeprefix("/")

    monkeypatch.setattr(control_group, "Path", redirected)
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def group_v2(limit: str, used_bytes: int, high: str = "max", cache_bytes: int = 0) -> dict[str, str]:
    stat = f"anon 5\nfile 999\ninactive_file {cache_bytes // 2}\nactive_file {cache_bytes // 2}\n"
    return {"memory.max": limit, "memory.high": high, "memory.current": str(used_bytes), "memory.stat": stat}


def group_v1(limit: int, used_bytes: int, cache_bytes: int = 0) -> dict[str, str]:
    stat = f"cache 7\ninactive_file 3\ntotal_inactive_file {cache_bytes}\ntotal_active_file 0\n"
    return {"memory.limit_in_bytes": str(limit), "memory.usage_in_bytes": str(used_bytes), "memory.stat": stat}


def at(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (at("cg/system/node", group_v2(f"{300 * MB}\n", 250 * MB, cache_bytes=30 * MB)), 80 * MB),
        (at("cg/system/node", group_v2("max\n", 250 * MB)), None),
        (at("cg/system/node", group_v2("max\n", 250 * MB, high=str(260 * MB))), 10 * MB),
        (at("cg/system/node", group_v2(str(300 * MB), 400 * MB)), 0),
        (
            at("cg/system/node", group_v2(str(300 * MB), 10)) | at("cg/system", group_v2(str(500 * MB), 480 * MB)),
            20 * MB,
        ),
        (at("cg/system/node", {"memory.max": "1000"}), None),
        ({}, None),
    ],
)
def test_groups_of_version_2(root: Path, files: dict[str, str], expected: int | None) -> None:
    write(root, {"proc/self/mountinfo": V2.format(root="/"), "proc/self/cgroup": "0::/system/node\n", **files})
    assert control_group.available_bytes() == expected


@pytest.mark.parametrize(
    ("mounted_root", "own", "folder"),
    [
        ("/", "/docker/1", "cg/memory/docker/1"),
        ("/docker/1", "/docker/1", "cg/memory"),  # a container sees its own group as the root
        ("/docker/1", "/docker/1/inner", "cg/memory/inner"),
        ("/docker/1", "/elsewhere", "cg/memory"),
        ("/", "/../beyond", "cg/memory"),
    ],
)
def test_groups_of_version_1(root: Path, mounted_root: str, own: str, folder: str) -> None:
    both = V1.format(root=mounted_root) + V2.format(root="/")
    own_groups = f"9:name=systemd:/\n4:cpu,memory:{own}\n0::/\n"
    files = at(folder, group_v1(300 * MB, 250 * MB, cache_bytes=20 * MB))
    write(root, {"proc/self/mountinfo": both, "proc/self/cgroup": own_groups, **files})
    assert control_group.available_bytes() == 70 * MB
    write(root, at(folder, group_v1(0x7FFFFFFFFFFFF000, 250 * MB)))
    assert control_group.available_bytes() is None


def test_least_of_system_and_group(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "Path", control_group.Path)
    write(root, {"proc/meminfo": "MemAvailable: 400000 kB\n"})
    assert device.available_bytes() == 409_600_000
    write(root, {"proc/self/mountinfo": V2.format(root="/"), "proc/self/cgroup": "0::/\n"})
    write(root, at("cg", group_v2(str(300 * MB), 100 * MB)))
    assert device.available_bytes() == 200 * MB
    write(root, at("cg", group_v2(str(100 * MB), 100 * MB)))
    assert device.available_bytes() == 0, "nothing left is not the same as no limit"


def pressure(percent: float | str) -> str:
    return f"some avg10=99.00 avg60=0 avg300=0 total=1\nfull avg10={percent} avg60=0.00 avg300=0.00 total=8\n"


@pytest.mark.parametrize(
    ("system", "group", "expected"),
    [
        (pressure(3.5), None, 3.5),
        (pressure(3.5), pressure(41.0), 41.0),
        (None, None, None),
        ("full avg10=x\n", None, None),
    ],
)
def test_how_much_waits_for_memory(root: Path, system: str | None, group: str | None, expected: float | None) -> None:
    write(root, {"proc/self/mountinfo": V2.format(root="/"), "proc/self/cgroup": "0::/node\n"})
    write(root, {} if system is None else {"proc/pressure/memory": system})
    write(root, {} if group is None else {"cg/node/memory.pressure": group})
    assert control_group.stalled_percent() == expected
