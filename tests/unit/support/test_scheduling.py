"""Tests that share what is slow to make are handed out together, all others one by one."""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.repository import ROOT
from tests.support.scheduling import TOGETHER, Scheduling


def scopes(config: pytest.Config, *names: str) -> set[str]:
    scheduling = Scheduling(config)
    return {scheduling._split_scope(name) for name in names}


def test_the_files_are_there() -> None:
    assert [name for name in TOGETHER if not (ROOT / name).is_file()] == []


def test_what_is_handed_out_at_once(pytestconfig: pytest.Config) -> None:
    assert issubclass(Scheduling, LoadScopeScheduling)
    cli, other = "tests/integration/test_cli_live.py::test_x", "tests/unit/test_packaging.py::test_"
    assert len(scopes(pytestconfig, f"{cli}[a::b]", f"{cli}[2]", "tests/integration/test_nothing_leaves.py::test")) == 1
    assert len(scopes(pytestconfig, f"{other}x", f"{other}y")) == 2
