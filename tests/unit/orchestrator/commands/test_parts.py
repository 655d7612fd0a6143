"""Parts that end are started again after a pause, and given up where that does not help."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.commands.parts import Part, PartFailed, Parts

READY = re.compile("^ready", re.MULTILINE)
RUNS = ("-uc", "import signal; print('ready'); signal.pause()")
ENDS = ("-c", "import sys; sys.exit('Error: no room')")
ENDS_AFTER_ALL = ("-c", "import sys; print('ready'); sys.exit('Error: no room')")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    parts.end(0.0)


def kill(parts: Parts, part: Part) -> None:
    parts.wait_for(part, READY, parts.check)
    part.process.send(signal.SIGKILL)
    part.process.wait()


def test_one_that_was_killed_is_started_again_after_a_pause(parts: Parts) -> None:
    part = parts.start("node", RUNS, READY)
    kill(parts, part)
    assert list(parts.tend(100.0)) == []
    assert list(parts.tend(100.9)) == []
    (line,) = parts.tend(101.0)
    assert line.startswith("node was killed")
    assert line.endswith("; started again")
    assert part.process.running
    assert list(parts.tend(101.1)) == []


def test_one_that_ends_again_and_again_is_given_up_with_its_last_line(parts: Parts) -> None:
    part = parts.start("node", ENDS_AFTER_ALL, READY)
    for now_s in (0.0, 10.0):
        part.process.wait()
        assert list(parts.tend(now_s)) == []
        assert list(parts.tend(now_s + 2.0)) == ["node ended: Error: no room; started again"]
    part.process.wait()
    with pytest.raises(PartFailed, match="node ended: Error: no room; not started again after 3 ends within 60 s"):
        list(parts.tend(20.0))


def test_one_that_never_started_well_is_not_tried_again(parts: Parts) -> None:
    part = parts.start("node", ENDS, READY)
    part.process.wait()
    with pytest.raises(PartFailed, match=r"node ended: Error: no room$"):
        list(parts.tend(0.0))


def test_what_it_said_before_it_was_started_again_stays(parts: Parts) -> None:
    part = parts.start("node", RUNS, READY)
    kill(parts, part)
    list(parts.tend(0.0))
    list(parts.tend(1.0))
    parts.wait_for(part, re.compile("ready\nready"), parts.check)


def test_the_end_of_all_ends_one_that_waits_to_be_started_again(parts: Parts) -> None:
    part = parts.start("node", RUNS, READY)
    kill(parts, part)
    list(parts.tend(0.0))
    parts.end(1.0)
    assert not part.process.running
