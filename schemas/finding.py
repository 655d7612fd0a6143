"""What a look at a device, a link or a host has found: one line, and what to do about it (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FindingState = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, in a word or two.
        state: failed: it does not work like that; warning: it works, and something may be wrong with it.
        said: what was found, in one line; neither keys nor tokens.
        remedy: what to do next; empty where all is well.
    """

    check: str
    state: FindingState
    said: str
    remedy: str = ""


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", said)


def warning(check: str, said: str, remedy: str) -> Finding:
    """It works, and something may be wrong with it."""
    return Finding(check, "warning", said, remedy)


def failed(check: str, said: str, remedy: str) -> Finding:
    """It does not work like that."""
    return Finding(check, "failed", said, remedy)
