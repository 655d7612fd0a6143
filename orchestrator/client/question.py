"""A question to the fleet, as all ways in ask it (pure)."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass

from schemas.limits import DEFAULT_PATIENCE_S
from schemas.messages import ChatMessage, Grammar, Sampling, SubmitRequest, Tool

SEEDS = 2**53
PIPELINE = "main"
"""The service that is asked unless another one is named."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: a conversation, or raw text as ``prompt``. See `SubmitRequest` for what each field means."""

    messages: tuple[ChatMessage, ...] = ()
    prompt: str | None = None
    tools: tuple[Tool, ...] = ()
    """Functions that the model may ask to be called; `orchestrator.text.tool_calls` reads its calls."""
    max_tokens: int = 256
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    logprobs: int | None = None
    """How many likely tokens to tell with each one that was chosen, and how likely all of them were."""
    grammar: Grammar | None = None
    """The form that the answer has to have."""
    pipeline: str = PIPELINE
    stats: bool = False
    patience_s: float = DEFAULT_PATIENCE_S
    """How long it waits for a broker, an orchestrator, nodes or memory that are missing."""

    def submit(self, *, client: str, connection: str | None, lease_s: float | None) -> SubmitRequest:
        """The message that asks it, with a request of its own."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return SubmitRequest(
            client=client, connection=connection, request=secrets.token_hex(8), lease_s=lease_s, **fields
        )

    def varied(self, number: int) -> Question:
        """The same question for the answer of this number, among several to it: each has its own seed."""
        seed = (self.sampling.seed + number) % SEEDS
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, seed=seed))


def random_seed() -> int:
    """A seed for an answer that nobody wants twice."""
    return secrets.randbelow(SEEDS)


def seed_of(wanted: int | None) -> int:
    """A seed of the caller's, brought into the range of ours; a random one where he has none."""
    return random_seed() if wanted is None else wanted % SEEDS
