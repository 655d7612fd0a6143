"""What an answer waits for, on stderr: one line that counts on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import math
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from broker.option_types import FiniteRange
from orchestrator.client import Answer, Waiting
from schemas.limits import DEFAULT_PATIENCE_S, MAX_PATIENCE_S

_F = TypeVar("_F", bound=Callable[..., Any])
_TELL_AFTER_S = 1.0
"""Most waits are over sooner: nothing is said of those."""
_LINE_EVERY_S = 10.0
_CLEAR_LINE = "\r\033[K"


def patience_option(function: _F) -> _F:
    """Add ``--patience``, which `Client.ask` takes."""
    option = click.option(
        "--patience",
        "patience_s",
        type=FiniteRange(0, MAX_PATIENCE_S),
        default=DEFAULT_PATIENCE_S,
        show_default=True,
        metavar="SECONDS",
        help="Wait so long, without progress, for a broker, an orchestrator, nodes or memory that are missing; 0 fails "
        "at once.",
    )
    return option(function)


class WaitingLine:
    """Tells on stderr what an answer waits for."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._told_s = -math.inf
        self._told = ""
        """What was told last, in whole."""

    def tell(self, waiting: Waiting | None) -> None:
        """Say what is waited for now, in whole when that is news and else for how long; None: the answer goes on."""
        now_s = time.monotonic()
        if waiting is None:
            self.close()
            return
        waited_s = now_s - waiting.since_s
        if waited_s < _TELL_AFTER_S and not self._told:
            return
        line, short = f"waiting for {waiting.text}, {waited_s:.0f} s", f"still waiting, {waited_s:.0f} s"
        is_news = _without_figures(waiting.text) != _without_figures(self._told)
        if self._on_terminal:
            lead = _CLEAR_LINE if self._told else f"\n{_CLEAR_LINE}"
            fits = len(line) < shutil.get_terminal_size().columns
            if is_news and not fits:
                click.echo(lead + line, err=True)
            else:
                click.echo(lead + (line if fits else short), nl=False, err=True)
        elif is_news or now_s >= self._told_s + _LINE_EVERY_S:
            click.echo(short if waiting.text == self._told else line, err=True)
        else:
            return
        self._told, self._told_s = waiting.text, now_s

    def close(self) -> None:
        """Leave nothing of it on a terminal."""
        if self._told and self._on_terminal:
            click.echo(_CLEAR_LINE, nl=False, err=True)
        self._told, self._told_s = "", -math.inf


def _without_figures(text: str) -> str:
    """What stays of a text while what it tells of goes on."""
    return re.sub(r"\d[\d.,]*", "0", text)


@contextlib.contextmanager
def told_waiting(answer: Answer) -> Iterator[None]:
    """Tell what an answer waits for while it is read."""
    line = WaitingLine()
    answer.on_waiting = line.tell
    try:
        yield
    finally:
        line.close()
