"""Which requests a stage takes (pure)."""

from __future__ import annotations

from edge_node.work import FailureCode
from schemas.messages import OpenRequest, PrepareSegment


def refuse(message: OpenRequest, spec: PrepareSegment) -> tuple[FailureCode, str] | None:
    """Why the stage can't serve a request, for programs and for people; None where it can."""
    known = len(message.prompt_ids or ())
    if max(message.prompt_tokens, known) >= spec.context_tokens:
        return "too_long", f"the prompt has {message.prompt_tokens} tokens, the plan's context {spec.context_tokens}"
    if any(token >= spec.vocab_size for token in message.prompt_ids or ()):
        return "internal", f"the prompt has a token outside the vocabulary of {spec.vocab_size}"
    penalty = message.sampling is not None and message.sampling.repetition_penalty != 1.0
    needs_prompt = spec.stage == 0 or penalty or message.draft_tokens > 0
    if needs_prompt and (not known or known < message.prompt_tokens):
        return "internal", f"stage {spec.stage} was not given the prompt"
    return None
