"""Names of nodes, pipelines, models and clients, which fit between the slashes of a topic; and names of blobs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

MAX_LENGTH = 64
RULE = f"use letters, digits, '.', '_' and '-', {MAX_LENGTH} at most"
"""For people; a letter or a digit comes first."""
_FIRST, _FURTHER = "[A-Za-z0-9]", "A-Za-z0-9._-"
PATTERN = f"{_FIRST}[{_FURTHER}]*"
"""Of a name whose length is limited elsewhere."""
LIMITED_PATTERN = f"{_FIRST}[{_FURTHER}]{{0,{MAX_LENGTH - 1}}}"
_NAME = re.compile(LIMITED_PATTERN)
SHA256_PATTERN = "[0-9a-f]{64}"
"""Of a blob's name."""
_SHA256 = re.compile(SHA256_PATTERN)
_LIKENESS = 0.4
"""Of names that one may be taken for another; 1 is equal. Names such as n1 and n9 are still alike."""
_FOREIGN = re.compile(f"[^{_FURTHER}]+")


def is_name(text: str) -> bool:
    """May this text be the name of a node, pipeline, model or client?"""
    return _NAME.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """May this text be the name of a blob?"""
    return _SHA256.fullmatch(text) is not None


def name_from(text: str) -> str:
    """The valid name that is most like a text; empty when nothing of the text can be in a name."""
    return _FOREIGN.sub("-", text).strip("-._")[:MAX_LENGTH]


def nearest(name: str, known: Collection[str]) -> str:
    """The known name that somebody may have meant by ``name``; empty where none is like it."""
    return next(iter(_alike(name, known, 1)), "")


def suggestion(name: str, known: Collection[str], otherwise: str, *, most: int = 1) -> str:
    """Which known names somebody may have meant by ``name``; ``otherwise`` where none is like it."""
    near = _alike(name, known, most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def _alike(name: str, known: Collection[str], most: int) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, sorted(known), n=most, cutoff=_LIKENESS)


def unknown_node(names: Iterable[str], known: Collection[str]) -> str:
    """A line about the first of the names that no node has; empty where all are known."""
    for name in names:
        if name not in known:
            return f"there is no node {name[:MAX_LENGTH]}: {suggestion(name, known, 'see linguabus nodes')}"
    return ""
