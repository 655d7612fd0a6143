"""Tables and units for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from schemas.system_limits import allow_many_files

if TYPE_CHECKING:
    from broker.local_broker import LocalBroker


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Left-aligned columns as wide as they need to be; columns of numbers are right-aligned."""
    body = [list(row) for row in rows]
    columns = list(zip(headings, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [bool(body) and all(_is_number(cell) for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [list(headings), *body]
    ]
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    first = cell.split(" ")[0].replace(",", "").replace(".", "", 1)
    return first.isdigit() or cell in ("", "-")


def describe_broker(broker: LocalBroker) -> str:
    """Which broker runs where."""
    name = "Mosquitto" if broker.kind == "mosquitto" else "the embedded one, amqtt"
    return f"{name} {broker.version}, at {broker.url}"


def megabytes(size_bytes: float) -> str:
    """Bytes in MB (10^6), as plans and limits are given."""
    return f"{size_bytes / 1e6:,.0f} MB"


def warn_of_few_files() -> None:
    """For commands that many others connect to: a line on stderr where the system allows too few connections."""
    warning = allow_many_files()
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)


def print_json(value: dict[str, Any], indent: int | None = 2) -> None:
    """One JSON object on stdout; what the terminal has no letters for is written in escapes."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    click.echo(json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=indent))
