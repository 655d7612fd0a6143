"""Text from and for a terminal that may not speak UTF-8: nothing in it ends a command."""

from __future__ import annotations

import codecs
import io
import sys

import click

from schemas.shown_text import without_controls


def settle_streams() -> None:
    """Set the standard streams up so that no text ends a command.

    Stdin passes on bytes that are no text in its encoding, to be refused where they are sent; stdout replaces
    characters that its encoding has not. Where the system's encoding is ASCII nobody chose it: UTF-8 is likelier.
    """
    if sys.stdin is None:  # closed by whoever started us
        sys.stdin = io.StringIO()
    if isinstance(sys.stdin, io.TextIOWrapper):
        is_ascii = codecs.lookup(sys.stdin.encoding).name == "ascii"
        sys.stdin.reconfigure(encoding="utf-8" if is_ascii else sys.stdin.encoding, errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def as_typed(argument: str) -> str:
    """The text of an argument, in which the system's encoding may have left bytes for letters that it does not have."""
    return argument.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def show_piece(piece: str) -> None:
    """Print a piece of an answer. A terminal gets no control sequences; files and pipes get the text as it is."""
    click.echo(without_controls(piece) if sys.stdout.isatty() else piece, nl=False)
