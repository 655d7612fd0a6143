"""How much of a disk a node may take."""

from __future__ import annotations

from pathlib import Path

from edge_node.storage.budget import LEFT_FREE_BYTES, StorageBudget

GIB = 1 << 30


class Disk:
    """One that others fill."""

    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free

    def usage(self, _: Path) -> tuple[int, int]:
        return self.total, self.free


def test_half_of_what_is_free_may_be_taken_as_it_is_now(tmp_path: Path) -> None:
    disk = Disk(100 * GIB, 40 * GIB)
    (tmp_path / "blob").write_bytes(bytes(1000))
    budget = StorageBudget(tmp_path, None, usage=disk.usage)
    assert budget.limit_bytes(1000) == 1000 + 20 * GIB, "what is stored already does not shrink it"
    disk.free -= 20 * GIB
    assert budget.limit_bytes(1000 + 20 * GIB) == 1000 + 20 * GIB, "what the node takes does not raise it"
    disk.free = 4 * GIB
    assert budget.limit_bytes(1000) == 1000 + 2 * GIB, "others have filled the disk"


def test_the_owners_limit_is_the_limit_where_there_is_room(tmp_path: Path) -> None:
    disk = Disk(100 * GIB, 40 * GIB)
    budget = StorageBudget(tmp_path, 30 * GIB, usage=disk.usage)
    assert budget.limit_bytes(0) == 30 * GIB
    disk.free = GIB
    assert budget.limit_bytes(0) == GIB


def test_a_disk_that_others_fill_gets_some_room_back(tmp_path: Path) -> None:
    disk = Disk(100 * GIB, 40 * GIB)
    budget = StorageBudget(tmp_path, None, usage=disk.usage)
    assert budget.excess_bytes(10 * GIB) == 0
    assert budget.excess_bytes(21 * GIB) == GIB
    disk.free = 1000
    assert budget.excess_bytes(10 * GIB) == LEFT_FREE_BYTES - 1000
    small = StorageBudget(tmp_path, 500, usage=Disk(1000, 20).usage)
    assert small.excess_bytes(100) == 30


def test_a_directory_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    budget = StorageBudget(tmp_path, 500)
    tmp_path.rmdir()
    assert (budget.limit_bytes(100), budget.excess_bytes(100)) == (500, 0)
