"""How a request has ended (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.messages import FinishReason, StageTiming, StreamEnd


@dataclass
class Ending:
    """How a request has ended, and what its stages report of it."""

    finish: FinishReason
    ended_s: float
    due_s: float
    """The stages' figures are awaited until then."""
    timings: dict[int, StageTiming] = field(default_factory=dict)
    """By stage."""


def ended_text(end: StreamEnd) -> str:
    """A line for the log about the end of a request."""
    return (
        f"{end.request} ended ({end.finish_reason}): {end.completion_tokens} tokens, first after {end.ttft_s:.3f} s,"
        f" all after {end.total_s:.3f} s"
    )


def unheard_text(request: str, client: str) -> str:
    """The line for the log about a request of an earlier start that its reader does not ask for any more."""
    return f"{request} is forgotten: {client}, who reads it, was not heard of since this start, and may have it already"
