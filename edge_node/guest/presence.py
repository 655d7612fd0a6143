"""Is there a node on a home, and how is it? For commands on the same device."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from edge_node.guest.control import NoWayToNode, ask
from edge_node.guest.pause import PauseFile
from edge_node.guest.state import NodeState
from edge_node.storage.home_lock import holder

_LOOK_S = 0.1


def state_of(home: Path, name: str, what: str = "status") -> NodeState:
    """How the node of a home is, whatever way there is to find out. ``what``: see `ask`."""
    try:
        return ask(home, what)
    except NoWayToNode:
        pass
    pause = PauseFile(home).read()
    why = pause.reason if pause else ""
    if pid := holder(home):
        return NodeState(node=name, state="unknown", pid=pid, why=why)
    return NodeState(node=name, state="not running", why=why)


def end_node(home: Path, *, timeout_s: float, waits: Callable[[], None]) -> bool:
    """Ask the node of a home to hand its layers over and end; false if it has not in time. True where there is none.

    ``waits`` is called if there is something to wait for.
    """
    pid = holder(home)
    if not pid:
        return True
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    waits()
    ends_s = time.monotonic() + timeout_s
    while holder(home) == pid:
        if time.monotonic() >= ends_s:
            return False
        time.sleep(_LOOK_S)  # nobody tells of the end of another's child
    return True
