"""The messages that docs/troubleshooting.md explains are those that the programs say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest
from markdown_it import MarkdownIt

from tests.support.repository import ROOT

PACKAGES = ("broker", "edge_node", "orchestrator", "schemas")
OTHER = re.compile(r"\.\.\.|\b[A-Z]{4,}\b")
"""What stands for something that differs."""
HOLE = "\0"
LEAST_CHARACTERS = 8


def messages() -> list[str]:
    """What is in code in the first column of each table."""
    tokens = MarkdownIt("commonmark").enable("table").parse((ROOT / "docs/troubleshooting.md").read_text("utf-8"))
    rows = [tokens[at + 2] for at, token in enumerate(tokens[:-2]) if token.type == "tr_open"]
    return [child.content for cell in rows for child in cell.children or () if child.type == "code_inline"]


@cache
def texts() -> frozenset[str]:
    """All texts of the sources, with holes for what is put into them."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found.update(strings(ast.parse(path.read_text("utf-8"))))
        for path in (ROOT / package).rglob("*.sh"):
            found.update(path.read_text("utf-8").splitlines())
    return frozenset(found)


def strings(tree: ast.Module) -> Iterator[str]:
    for one in ast.walk(tree):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value
        elif isinstance(one, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in one.values)


def says(text: str, pieces: list[str]) -> bool:
    """Does a text have these pieces, in this order?"""
    at = 0
    for piece in pieces:
        at = text.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    return True


@pytest.mark.parametrize("message", messages())
def test_the_programs_say_it(message: str) -> None:
    pieces = [piece.strip() for piece in OTHER.split(message) if piece.strip()]
    assert sum(map(len, pieces)) >= LEAST_CHARACTERS
    assert any(says(text, pieces) for text in texts())


def test_there_are_many() -> None:
    assert len(messages()) > 50
    assert not any(says(text, ["the moon is in the way"]) for text in texts())
