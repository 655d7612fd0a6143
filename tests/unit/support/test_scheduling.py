"""Tests that share what is slow to make are handed out together, all others one by one."""

from tests.support.repository import ROOT
from tests.support.scheduling import TOGETHER, scope


def test_the_files_are_there() -> None:
    assert [name for name in TOGETHER if not (ROOT / name).is_file()] == []


def test_what_is_handed_out_at_once() -> None:
    cli, other = "tests/integration/test_cli_live.py::test_x", "tests/unit/test_packaging.py::test_"
    together = {scope(name) for name in (f"{cli}[a::b]", f"{cli}[2]", "tests/integration/test_nothing_leaves.py::test")}
    assert len(together) == 1
    assert scope(f"{other}x") != scope(f"{other}y")
