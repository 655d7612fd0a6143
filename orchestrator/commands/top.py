"""``linguabus top``: the fleet at work, drawn anew every second."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator

import click

from broker.option_types import FiniteRange
from orchestrator.client import Client
from orchestrator.commands.connection import connect
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.commands.top_view import draw
from schemas.contract import dump
from schemas.messages import OverviewReply

_OTHER_SCREEN, _BACK = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command("top", epilog="Example: linguabus top --interval 2")
@click.option("--once", is_flag=True, help="Show the present moment and end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON objects: one a line, or one with --once.")
@click.option(
    "--interval",
    "interval_s",
    type=FiniteRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two views.",
)
@bus_options
@pass_settings
def command(settings: Settings, once: bool, as_json: bool, interval_s: float) -> None:
    """Show pipelines and nodes at work: time per step, tokens/s, queues, batteries, heat, moves. Ctrl-C ends it."""
    live = sys.stdout.isatty() and not once and not as_json
    with connect(settings) as client:
        said = client.overview()  # an error is told on the screen that stays
        if once:
            print_json(dump(said)) if as_json else _print(said)
            return
        with _other_screen() if live else contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
            _go_on(client, said, interval_s, live=live, as_json=as_json)


def _go_on(client: Client, said: OverviewReply, interval_s: float, *, live: bool, as_json: bool) -> None:
    never = threading.Event()
    due_s = time.monotonic()
    while True:
        if as_json:
            print_json(dump(said), indent=None)
        elif live:
            _redraw(said)
        else:
            _print(said)
            click.echo()
        due_s = max(due_s + interval_s, time.monotonic())
        never.wait(due_s - time.monotonic())
        said = client.overview()


def _print(said: OverviewReply) -> None:
    """Print one view where there is no terminal: nothing is cut."""
    click.echo("\n".join(draw(said)))


def _redraw(said: OverviewReply) -> None:
    """Draw one view over the one before; the size is asked each time, so a window may change it."""
    size = shutil.get_terminal_size()
    lines = draw(said, width=size.columns, height=size.lines - 1)
    text = "".join(f"{line}{_CLEAR_LINE}\n" for line in lines)
    sys.stdout.write(f"{_HOME}{text}{_CLEAR_BELOW}")
    sys.stdout.flush()


@contextlib.contextmanager
def _other_screen() -> Iterator[None]:
    """Switch to the terminal's other screen, and back to what was there before at the end."""
    sys.stdout.write(_OTHER_SCREEN)
    try:
        yield
    finally:
        sys.stdout.write(_BACK)
        sys.stdout.flush()
