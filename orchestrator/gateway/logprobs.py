"""How likely tokens were, in OpenAI's two shapes (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.limits import LEAST_LOGPROB
from schemas.messages import TokenLogprobs


def chat_logprobs(tokens: Sequence[TokenLogprobs] | None) -> dict[str, Any] | None:
    """As ``/v1/chat/completions`` has them."""
    if not tokens:
        return None
    content = [
        {
            **_entry(token.text, token.logprob),
            "top_logprobs": [_entry(other.text, other.logprob) for other in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[TokenLogprobs] | None, offset: int) -> dict[str, Any] | None:
    """As ``/v1/completions`` has them; ``offset``: where the first one begins in the text."""
    if not tokens:
        return None
    offsets = [offset]
    for token in tokens[:-1]:
        offsets.append(offsets[-1] + len(token.text))
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _entry(text: str, logprob: float | None) -> dict[str, Any]:
    """What can't be had again has OpenAI's own number for what is hardly likely."""
    return {"token": text, "logprob": LEAST_LOGPROB if logprob is None else logprob, "bytes": list(text.encode())}
