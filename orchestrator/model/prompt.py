"""The prompt of a request: from what a client asks to token ids; for a job, since a chat template is foreign code."""

from __future__ import annotations

from typing import Literal

from orchestrator.model.errors import BrokenTemplate
from orchestrator.model.served import Tokenizer
from orchestrator.model.tools import template_messages, template_tools
from schemas.errors import LinguabusError
from schemas.messages import SubmitRequest


class PromptRefused(Exception):
    """The prompt can't be served; ``code`` is one of StreamError's.

    ``reason`` is for the one who asks. ``summary`` is for the log, where no word of a prompt may stand.
    """

    def __init__(self, code: Literal["too_long", "bad_request"], reason: str, summary: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.summary = summary or reason


def encode_prompt(submit: SubmitRequest, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a conversation, whose messages are text whatever they look like, or of a raw prompt with its
    markers.

    Raises:
        PromptRefused: the prompt is empty, the chat template refuses it, or none can be made of it.
    """
    if (submit.prompt is None) is not bool(submit.messages):
        raise PromptRefused("bad_request", "a request has either messages or a prompt")
    if submit.tools and submit.prompt is not None:
        raise PromptRefused("bad_request", "tools need messages: a raw prompt has no chat template")
    try:
        if submit.prompt is not None:
            ids = tokenizer.encode(submit.prompt)
        else:
            ids = tokenizer.encode_chat(template_messages(submit.messages), template_tools(submit.tools))
    except BrokenTemplate as error:
        raise PromptRefused("bad_request", str(error), error.summary) from error
    except LinguabusError as error:
        raise PromptRefused("bad_request", str(error)) from error
    if not ids:
        raise PromptRefused("bad_request", "the prompt is empty: write something to answer")
    return tuple(ids)
