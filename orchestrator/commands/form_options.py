"""The options that bind an answer to a form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from schemas.limits import MAX_GRAMMAR_CHARACTERS
from schemas.messages import Grammar


def _schema(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """The text of a schema that is given as it is, or as the name of a file."""
    if value is None:
        return None
    text = value
    if not value.lstrip().startswith("{"):
        try:
            text = Path(value).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise click.BadParameter(
                f"neither a JSON object nor a file that can be read: {getattr(error, 'strerror', None) or error}"
            ) from None
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise click.BadParameter(f"{len(text):,} characters, the most are {MAX_GRAMMAR_CHARACTERS:,}")
    return text


def form_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options, which it is given as ``json_schema`` and ``json_object``."""
    for option in (
        click.option("--json-object", is_flag=True, help="Answer with a JSON object."),
        click.option("--json-schema", metavar="FILE|TEXT", callback=_schema,
                     help="Answer with a JSON document of this JSON schema. It is whole unless --max-tokens "
                     "cuts it."),
    ):  # fmt: skip
        function = option(function)
    return function


def grammar_of(json_schema: str | None, *, json_object: bool) -> Grammar | None:
    """The form that the options ask for, if any.

    Raises:
        UsageError: they contradict each other.
    """
    if json_schema is not None and json_object:
        raise click.UsageError("--json-schema already says that it is JSON: leave out --json-object")
    if json_schema is not None:
        return Grammar(kind="json_schema", text=json_schema)
    return Grammar(kind="json_object") if json_object else None
