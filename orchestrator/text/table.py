"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] | None = None) -> str:
    """Columns as wide as their widest cell, aligned to the left.

    Args:
        right: the columns aligned to the right; by default those of numbers.
    """
    body = list(rows)
    columns = list(zip(headings, *body, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if right is None:
        right = [index for index, column in enumerate(columns) if body and all(map(_is_number, column[1:]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (headings, *body)
    )


def _is_number(cell: str) -> bool:
    first = cell.split(" ")[0].replace(",", "").replace(".", "", 1)
    return first.isdigit() or cell in ("", "-")
