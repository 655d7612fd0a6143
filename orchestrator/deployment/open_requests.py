"""What a deployment knows of the requests that are open on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpenWork:
    """What is open on the working plan."""

    requests: int = 0
    positions: int = 0
    """Prompts and answers so far: what KV caches hold."""
    answer_tokens: int = 0
    """Those of them that are the answers'."""
    remaining_tokens: int = 0
    """Most tokens that are still to come."""
