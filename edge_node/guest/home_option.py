"""``--home``: where a node keeps what it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def default_home() -> Path:
    """The home that a node has unless it is told another one.

    Raises:
        click.UsageError: nobody knows where.
    """
    if os.environ.get("LINGUABUS_HOME"):
        return Path(os.environ["LINGUABUS_HOME"]) / "node"
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:  # HOME is not set, and the system does not know the user
        raise click.UsageError("you have no home directory: give --home DIR, or set HOME") from None
    return Path(data) / "linguabus" / "node"


def _home_of_program_or_default() -> Path:
    """What stands before a command goes for the command."""
    parent = click.get_current_context().parent
    return (parent.params.get("home") if parent else None) or default_home()


def home_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option; ``text`` is its help."""
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=_home_of_program_or_default,
        show_default="~/.local/share/linguabus/node",
        help=text,
    )
