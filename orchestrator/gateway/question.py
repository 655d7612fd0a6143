"""A question as both interfaces ask it, once it is read and checked."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from schemas.limits import DEFAULT_PATIENCE_S
from schemas.messages import ChatMessage, Sampling

SEEDS = 2**53


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked; one of ``messages`` and ``prompt``."""

    model: str
    """Of those that are served, by name."""
    messages: tuple[ChatMessage, ...] = ()
    prompt: str | None = None
    max_tokens: int
    sampling: Sampling
    patience_s: float = DEFAULT_PATIENCE_S

    def varied(self, number: int) -> Question:
        """The same question for the answer of this number, among several to it: each has its own seed."""
        seed = (self.sampling.seed + number) % SEEDS
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, seed=seed))


def seed_of(wanted: int | None) -> int:
    """A seed of the caller's, brought into the range of ours; a random one where he has none."""
    return secrets.randbelow(SEEDS) if wanted is None else wanted % SEEDS
