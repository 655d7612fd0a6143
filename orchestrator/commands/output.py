"""Tables and units for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

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


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
