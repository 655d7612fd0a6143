"""A notification on the phone, where Termux can show one: the node's state, and a button to pause it.

The command can hang or fail, so a thread calls it. Nothing waits for it, and after a few failures it is given up.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from pathlib import Path

from edge_node.guest.state import NodeState
from edge_node.telemetry.system_command import NoReading, output_of

SHOW, REMOVE = "termux-notification", "termux-notification-remove"
_TIMEOUT_S, _REMOVE_TIMEOUT_S = 10.0, 1.5
_REFRESH_S = 60.0
_TRIES = 3
Arguments = tuple[str, ...]


class Notification:
    """Shows how a node is: at once when its state changes, and what it has served once a minute."""

    def __init__(self, name: str, home: Path, *, refresh_s: float = _REFRESH_S) -> None:
        self._id = f"linguabus-{name}"
        self._home = home
        self._refresh_s = refresh_s
        self._shown: tuple[str, ...] = ()
        self._due_s = 0.0
        self._wanted: Arguments | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if shutil.which(SHOW):
            self._thread = threading.Thread(target=self._run, name="notification", daemon=True)
            self._thread.start()

    def show(self, state: NodeState, *, is_paused: bool, now_s: float) -> None:
        """Show this, if it is news."""
        if self._thread is None:
            return
        line = "no broker" if state.state == "no broker" else state.line
        shown = (line, str(is_paused))
        if shown == self._shown and now_s < self._due_s:
            return
        self._shown, self._due_s = shown, now_s + self._refresh_s
        with self._changed:
            self._wanted = self._arguments(state.node, line, state.tokens or 0, is_paused)
            self._changed.notify()

    def _arguments(self, name: str, line: str, tokens: int, is_paused: bool) -> Arguments:
        word = "resume" if is_paused else "pause"
        return (
            SHOW, "--id", self._id, "--ongoing", "--alert-once", "--priority", "low",
            "--title", f"linguabus: {name}", "--content", f"{line}, {tokens:,} tokens served",
            "--button1", word.capitalize(), "--button1-action", owner_command(word, self._home),
        )  # fmt: skip

    def _run(self) -> None:
        failures = 0
        while failures < _TRIES:
            with self._changed:
                while self._wanted is None and not self._is_over:
                    self._changed.wait()
                wanted, self._wanted = self._wanted, None
            if wanted is None or self._is_over:
                return
            try:
                output_of(*wanted, timeout_s=_TIMEOUT_S)
                failures = 0
            except NoReading:
                failures += 1

    def close(self) -> None:
        """Remove it. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._changed:
            self._is_over = True
            self._changed.notify()
        thread.join(_REMOVE_TIMEOUT_S)
        try:
            output_of(REMOVE, self._id, timeout_s=_REMOVE_TIMEOUT_S)
        except NoReading:
            return


def owner_command(word: str, home: Path) -> str:
    """What a shell that knows no PATH runs for ``linguabus-node WORD``."""
    beside = Path(sys.executable).with_name("linguabus-node")
    program = [str(beside)] if beside.exists() else [sys.executable, "-m", "edge_node"]
    return shlex.join([*program, word, "--home", str(home.resolve())])
