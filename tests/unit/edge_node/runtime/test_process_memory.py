"""This process's memory by address."""

from __future__ import annotations

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
    here = placed(line)
    with ProcessMemory() as memory:
        assert memory.read(here.ctypes.data - 4, 2 * LINE_BYTES)[4 : 4 + LINE_BYTES] == line.tobytes()
        assert [address for address, _ in memory.lines({line.tobytes()}) if address == here.ctypes.data]
        assert len({address for address, _ in memory.lines({line.tobytes()})}) <= 2  # here, and the set's own line


def test_nothing_is_sought_for_nothing() -> None:
    with ProcessMemory() as memory:
        assert list(memory.lines(set())) == []
