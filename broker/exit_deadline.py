"""A deadline for the exit: a process that was asked to end does end in time, whatever it is doing."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

EXIT_S = 4.5
"""From SIGTERM (or Ctrl-C) to the end at the latest; those who wait count from 5 s on."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signals(
    ask: Callable[[], None], *, until_s: Callable[[], float] = lambda: 0.0, patience_s: float = EXIT_S
) -> None:
    """On SIGTERM and SIGINT call ``ask``, and end the process by force if it still runs ``patience_s`` later.

    A signal's handler runs when the main thread comes back to Python, which may compute, or look up a name, for as long
    as it likes. So this does not rely on it: the interpreter also writes each signal to a socket at once, and a thread
    reads that. To be called from the main thread, once there is somebody to say good-bye to: until then the signals'
    own way, to end the process on the spot, is the best one.

    Args:
        until_s: when something that has to be done first is over (monotonic clock); the patience counts from then.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: ask())
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    arguments = (reader, until_s, patience_s)
    threading.Thread(target=_watch, args=arguments, name="exit deadline", daemon=True).start()


def _watch(signals: socket.socket, until_s: Callable[[], float], patience_s: float) -> None:
    while not set(signals.recv(64)).intersection(_SIGNALS):
        pass
    asked_s = time.monotonic()
    while (left_s := max(asked_s, until_s()) + patience_s - time.monotonic()) > 0:
        time.sleep(left_s)
    sys.stderr.write(f"Error: not at an end {patience_s:g} s after being asked to: ended by force\n")
    sys.stderr.flush()
    os._exit(1)
