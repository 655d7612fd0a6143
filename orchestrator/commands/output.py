"""Output that commands have in common: a broker in words, warnings, JSON for programs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from schemas.system_limits import allow_many_files

if TYPE_CHECKING:
    from broker.local_broker import LocalBroker


def describe_broker(broker: LocalBroker) -> str:
    """A broker in words: its kind, its version and its address, and whom it is for."""
    name = "Mosquitto" if broker.kind == "mosquitto" else "NATS"
    return f"{name} {broker.version}, at {broker.url}: for this machine alone, without roles"


def warn_of_few_files() -> None:
    """Warn on stderr where the system allows too few connections for a command that many others connect to."""
    warning = allow_many_files()
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)


def print_json(value: dict[str, Any], indent: int | None = 2) -> None:
    """One JSON object on stdout; what the terminal has no letters for is written in escapes."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    click.echo(json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=indent))


@contextlib.contextmanager
def on_output_gone(tell: Callable[[], None]) -> Iterator[None]:
    """Call ``tell``, from a thread, as soon as nobody can read standard output any more: a pipe's other end is closed.

    A write to it would fail too, but there may be nothing to write for a while.
    """
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file
        yield
        return
    over, end = os.pipe()

    def watch() -> None:
        poller = select.poll()
        poller.register(output, 0)  # errors are told of unasked
        poller.register(over, select.POLLIN)
        if any(fd == output for fd, _ in poller.poll()):
            tell()

    watcher = threading.Thread(target=watch, name="output", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(end)
        watcher.join()
        os.close(over)
