"""This process's memory by address."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from edge_node.runtime.process_memory import LINE_BYTES, ProcessMemory

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the system does not show memory as a file")


def placed(values: np.ndarray, offset: int = 0) -> np.ndarray:
    room = np.zeros(values.nbytes + 4 * LINE_BYTES, np.uint8)
    begin = -room.ctypes.data % LINE_BYTES + offset
    room[begin : begin + values.nbytes] = values
    return room[begin : begin + values.nbytes]


def test_what_is_written_is_there() -> None:
    values = placed(np.arange(256, dtype=np.uint8))
    with ProcessMemory() as memory:
        assert memory.read(values.ctypes.data + 3, 4) == bytes([3, 4, 5, 6])
        memory.write(values.ctypes.data + 3, memoryview(b"\xff\xfe"))
    assert list(values[2:6]) == [2, 255, 254, 5]


def test_an_address_without_memory_is_no_end_of_the_process() -> None:
    with ProcessMemory() as memory:
        assert memory.read(16, 64) == b""
        with pytest.raises(OSError, match=r"Input/output error|can't be written"):
            memory.write(16, memoryview(b"x"))


def test_lines_are_found_where_they_are_aligned() -> None:
    line = np.random.default_rng(1).integers(1, 256, LINE_BYTES, np.uint8)
    wanted = line.tobytes()
    here = placed(line)
    aside = placed(line, 4)
    similar = line.copy()
    similar[-1] ^= 1
    near = placed(similar)
    with ProcessMemory() as memory:
        found = dict(memory.lines({wanted}))
    assert found[here.ctypes.data] == wanted
    assert not {aside.ctypes.data, near.ctypes.data} & set(found)


def test_what_was_read_is_not_found_again() -> None:
    line = np.random.default_rng(2).integers(1, 256, LINE_BYTES, np.uint8)
    wanted, here = line.tobytes(), placed(line)
    with ProcessMemory() as memory:
        before = {address for address, _ in memory.lines({wanted})}
        assert here.ctypes.data in before
        for offset in (0, 4, 36, 60):  # each search is of all that this process holds
            assert memory.read(here.ctypes.data - offset, 2 * LINE_BYTES)[offset : offset + LINE_BYTES] == wanted
            assert {address for address, _ in memory.lines({wanted})} == before


def test_a_search_finds_nothing_that_it_has_made_itself() -> None:
    lines = np.random.default_rng(5).integers(1, 256, (2000, LINE_BYTES), np.uint8)
    here = placed(lines.reshape(-1))
    wanted = [line.tobytes() for line in lines]
    arrays = [here, lines, *(np.frombuffer(line, np.uint8) for line in wanted)]
    known = [range(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays]
    with ProcessMemory() as memory:
        found = {address for address, _ in memory.lines(set(wanted))}
    assert found >= set(range(here.ctypes.data, here.ctypes.data + here.nbytes, LINE_BYTES))
    assert [address for address in found if not any(address in place for place in known)] == []


def test_nothing_is_sought_for_nothing() -> None:
    with ProcessMemory() as memory:
        assert list(memory.lines(set())) == []


def test_memory_that_nobody_has_touched_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As most of a KV cache: to read it would take a second for each gigabyte."""
    size_bytes = 1 << 30
    untouched = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = np.frombuffer(untouched, np.uint8).ctypes.data
    line = np.random.default_rng(4).integers(1, 256, LINE_BYTES, np.uint8).tobytes()
    untouched[size_bytes // 2 : size_bytes // 2 + LINE_BYTES] = line
    read: list[int] = []
    with ProcessMemory() as memory:
        real = memory.read

        def counted(address: int, size_bytes: int) -> memoryview:
            read.append(address)
            return real(address, size_bytes)

        monkeypatch.setattr(memory, "read", counted)
        assert begin + size_bytes // 2 in {address for address, _ in memory.lines({line})}
    assert 1 <= sum(begin <= address < begin + size_bytes for address in read) <= 2


def test_a_mapped_file_of_any_name_is_no_matter(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/h\xe4user"))
    path.write_bytes(bytes(4096))
    line = placed(np.random.default_rng(5).integers(1, 256, LINE_BYTES, np.uint8))
    with path.open("rb+") as file, mmap.mmap(file.fileno(), 0), ProcessMemory() as memory:
        assert line.ctypes.data in {address for address, _ in memory.lines({line.tobytes()})}
