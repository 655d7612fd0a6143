"""Huge pages are asked for where they can be had, and only once."""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from edge_node.runtime import process_heap
from edge_node.runtime.kv_cache import zeros
from tests.support.mapped_files import resident_bytes


@pytest.fixture
def started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """The commands that the process would have become; the kernel and glibc are willing."""
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _program, command: commands.append(command))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "edge_node", "--name", "a"])
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    monkeypatch.setattr(os, "confstr", lambda _name: "glibc 2.36", raising=False)
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    monkeypatch.setattr(process_heap, "_KERNEL_SETTING", setting)
    return commands


def test_the_process_starts_again_with_huge_pages_once(started_again: list[list[str]]) -> None:
    process_heap.ask_for_huge_pages()
    assert started_again == [[sys.executable, "-m", "edge_node", "--name", "a"]]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    process_heap.ask_for_huge_pages()
    assert len(started_again) == 1


def test_who_may_not_be_started_again_goes_on_as_he_is(
    started_again: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(program: str, command: list[str]) -> None:
        raise PermissionError(program)

    monkeypatch.setattr(os, "execv", refuse)
    process_heap.ask_for_huge_pages()


@pytest.mark.parametrize("library", ["glibc 2.34", "musl 1.2", "", None])
def test_another_c_library_is_left_alone(
    started_again: list[list[str]], monkeypatch: pytest.MonkeyPatch, library: str | None
) -> None:
    monkeypatch.setattr(os, "confstr", lambda _name: library)
    process_heap.ask_for_huge_pages()
    assert not started_again


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_a_kernel_that_gives_to_all_or_none_is_left_alone(started_again: list[list[str]], setting: str | None) -> None:
    if setting is None:
        process_heap._KERNEL_SETTING.unlink()
    else:
        process_heap._KERNEL_SETTING.write_text(setting)
    process_heap.ask_for_huge_pages()
    assert not started_again


def test_what_the_user_set_stays(started_again: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    process_heap.ask_for_huge_pages()
    assert not started_again
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=0"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps")
def test_pages_of_files_that_were_only_read_are_let_go_and_changed_ones_kept(tmp_path: Path) -> None:
    size = 1 << 20
    for name in ("read", "changed"):
        (tmp_path / name).write_bytes(b"x" * size)
    with ExitStack() as stack:
        maps = {}
        for name in ("read", "changed"):
            file = stack.enter_context((tmp_path / name).open("rb"))
            maps[name] = stack.enter_context(mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=3))
            assert maps[name][::4096] == b"x" * (size // 4096)
        maps["changed"][5] = ord("y")
        process_heap.let_go_of_file_pages(tmp_path)
        resident = resident_bytes(tmp_path)
        assert resident[tmp_path / "read"] == 0
        assert resident[tmp_path / "changed"] == size
        assert maps["read"][:] == b"x" * size
        assert maps["changed"][:7] == b"xxxxxyx"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages may come back as they were")
def test_pages_that_lie_wholly_in_a_part_are_given_back() -> None:
    page = mmap.PAGESIZE
    rows = zeros((4 * page,), np.dtype(np.uint8))
    rows[:] = 7
    process_heap.drop_pages(rows.ctypes.data + page - 10, 2 * page)
    assert rows[:page].min() == 7
    assert rows[page : 2 * page].max() == 0
    assert rows[2 * page :].min() == 7
    process_heap.drop_pages(rows.ctypes.data + 10, page - 20)
    assert rows[:page].min() == 7
