"""The pieces of an answer as they arrive, some twice and some not at all (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from orchestrator.client.answer_times import AnswerTimes
from schemas.messages import RenewRequest, StreamEnd, StreamError, StreamStatus, StreamText, SubmitRequest, ToolFormat

StreamMessage = StreamText | StreamEnd | StreamError

_MOST_DAMAGED = 5
"""If no message about an answer can be read, it is not the network that is to blame."""


@dataclass
class AnswerStream:
    """The pieces of one answer that have come, in order and each once. ``submit`` is what asked for it."""

    submit: SubmitRequest
    times: AnswerTimes = field(default_factory=lambda: AnswerTimes(0.0))
    question_bytes: int = 0
    """Length of the message that asked for it."""
    waiting: list[StreamMessage] = field(default_factory=list)
    """Not taken yet."""
    token_ids: list[int] = field(default_factory=list)
    """Behind the pieces that have come."""
    characters: int = 0
    """Of the text that has come."""
    heard: bool = False
    """Was anything said of it yet?"""
    asked_s: float | None = None
    """When a first word of it was asked for; None unless that was."""
    unsure: bool = False
    """Something may have been missed: it is asked for until something comes."""
    waits_for: str = ""
    """What the answer waits for, as the orchestrator said last."""
    model: str | None = None
    """The model that computes the answer, once that was said."""
    tool_format: ToolFormat | None = None
    """How it writes tool calls, where tools were offered and that is known."""
    damaged: int = 0
    """Messages about it that came to the orchestrator so that it could not read them, one after the other."""
    unknown: bool = False
    """The orchestrator does not know the request: it is to be submitted again."""

    def refused(self, size_bytes: int, why: StreamError) -> None:
        """Take in that the broker refused a question of this length, if it may be this answer's."""
        if size_bytes == self.question_bytes and not self.token_ids:
            self.waiting.append(why)

    def take(self, message: StreamMessage | StreamStatus) -> None:
        """Take in a message unless one before it is missing; it will come again with that one."""
        self.heard = True
        if isinstance(message, StreamStatus):
            self.unsure, self.damaged = False, 0
            self.waits_for, self.model = message.waits_for, message.model or self.model
            self.tool_format = message.tool_format or self.tool_format
            return
        if isinstance(message, StreamError) and self._asks_again(message):
            self.unknown = True
            return
        if isinstance(message, StreamText):
            here, comes = self._place, (message.first_token, message.first_character)
            if comes > here:
                self.unsure = True
                return
            if comes < here:  # QoS 1 may deliver twice
                return
            self.token_ids += message.token_ids
            self.characters += len(message.text)
            self.waits_for, self.damaged = "", 0
        elif isinstance(message, StreamEnd) and (message.text_tokens, message.text_characters) > self._place:
            self.unsure = True
            return
        self.unsure = False
        self.waiting.append(message)

    def _asks_again(self, error: StreamError) -> bool:
        """Is this no end, because the question may be asked once more?"""
        self.damaged += error.code == "malformed"
        return error.code == "unknown" or (error.code == "malformed" and self.damaged < _MOST_DAMAGED)

    @property
    def _place(self) -> tuple[int, int]:
        return len(self.token_ids), self.characters

    def renewal(self) -> RenewRequest:
        """The message that says how much has come, and that more may have been missed."""
        return RenewRequest(request=self.submit.request, answer_tokens=len(self.token_ids), repeat=self.unsure)

    def submit_again(self, now_s: float) -> SubmitRequest:
        """The question for an orchestrator that does not know it, with what has come of the answer."""
        self.unknown = False
        return replace(
            self.submit,
            answer_ids=tuple(self.token_ids),
            answer_model=self.model,
            age_s=now_s - self.times.asked_s,
            ttft_s=self.times.ttft_s,
        )
