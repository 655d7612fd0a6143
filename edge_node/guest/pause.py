"""The pause that a node's owner has asked for: a file in its home, so that it holds over restarts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from broker.private_file import write_private
from broker.time_span import LONGEST_S

_FILE = "pause.json"
_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause; ``until`` in seconds of the wall clock, None: until the owner says otherwise."""

    until: float | None = None

    def is_over(self, now: float) -> bool:
        """Has it ended by itself? One that seems to be longer than can be asked for was written by another clock."""
        return self.until is not None and not now < self.until <= now + LONGEST_S

    @property
    def reason(self) -> str:
        """What a node that rests for it says."""
        return "paused by its owner" + ("" if self.until is None else f" until {local_time(self.until)}")


def local_time(at: float) -> str:
    """A time of the wall clock as the device's owner reads it; with the day where that is not today."""
    when, today = datetime.fromtimestamp(at).astimezone(), datetime.now().astimezone()
    return when.strftime("%H:%M" if when.date() == today.date() else "%Y-%m-%d %H:%M")


class PauseFile:
    """The pause in a node's home, as it is now."""

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE
        self._changed_ns: int | None = None
        self._known: Pause | None = None

    def read(self) -> Pause | None:
        """The pause, unless it is over; None where there is none. Quick: the file is read when it has changed."""
        try:
            changed_ns: int | None = self._path.stat().st_mtime_ns
        except OSError:
            changed_ns = None
        if changed_ns != self._changed_ns:
            self._changed_ns = changed_ns
            self._known = None if changed_ns is None else self._load()
        if self._known is not None and self._known.is_over(time.time()):
            return None
        return self._known

    def _load(self) -> Pause:
        """A file that can't be understood is a pause all the same: whoever wrote it did not want the node to work."""
        try:
            with self._path.open("rb") as file:
                until = json.loads(file.read(_MOST_BYTES))["until"]
            return Pause(None if until is None else float(until))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Pause()

    def write(self, pause: Pause) -> None:
        """Pause.

        Raises:
            OSError: it can't be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._path, json.dumps({"until": pause.until}))

    def remove(self) -> bool:
        """End the pause; was there one?

        Raises:
            OSError: the file can't be removed.
        """
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
