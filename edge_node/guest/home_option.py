"""``--home``: where a node keeps what it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from broker.user_home import user_home

NODE = "node"
"""The node's folder in a home."""
_VARIABLE = "LINGUABUS_HOME"


def default_home() -> Path:
    """The home that a node has unless it is told another one.

    Raises:
        click.UsageError: nobody knows where.
    """
    try:
        data = os.environ.get("XDG_DATA_HOME") or user_home() / ".local" / "share"
    except RuntimeError:
        raise click.UsageError("you have no home directory: give --home DIR, or set HOME") from None
    return Path(data) / "linguabus" / NODE


def _home_of_program_or_default() -> Path:
    """What stands before a command goes for the command."""
    parent = click.get_current_context().parent
    return (parent.params.get("home") if parent else None) or default_home()


class _HomeOfProgram(click.Option):
    """One that finds the node's folder in the home that a variable names for both programs."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        home = os.environ.get(_VARIABLE)
        return str(Path(home) / NODE) if home else super().resolve_envvar_value(ctx)


def home_option(text: str, *, of_program: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option; ``text`` is its help. A command's is not read from the environment: the program's has been."""
    how = {"cls": _HomeOfProgram, "envvar": _VARIABLE} if of_program else {"allow_from_autoenv": False}
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        default=_home_of_program_or_default,
        show_default="~/.local/share/linguabus/node",
        help=text,
        **how,
    )
