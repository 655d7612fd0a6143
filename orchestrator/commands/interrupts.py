"""Signals that end work in an orderly way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stoppable(Protocol):
    """Work that can be asked to end; ``stopped`` once it was."""

    stopped: bool

    def stop(self) -> None: ...


@contextlib.contextmanager
def stop_on_interrupt(work: Stoppable) -> Iterator[None]:
    """Let the first Ctrl-C stop the work, and the second one end the program at once."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if work.stopped:
            raise KeyboardInterrupt
        work.stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def leave_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise SystemExit, so that contexts end as they should; a second one ends the process.

    A signal that is ignored (nohup) or that somebody else handles is left alone, and so are all in other threads.
    """
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
