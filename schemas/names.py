"""Names of nodes, pipelines, models and clients, which fit between the slashes of a topic; and names of blobs."""

from __future__ import annotations

import re

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
_FOREIGN = re.compile(f"[^{_FURTHER}]+")


def is_name(text: str) -> bool:
    """May it be a name?"""
    return _NAME.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """May it be a blob's name?"""
    return _SHA256.fullmatch(text) is not None


def name_from(text: str) -> str:
    """The name that is most like any text; empty when nothing of it can be one."""
    return _FOREIGN.sub("-", text).strip("-._")[:MAX_LENGTH]
