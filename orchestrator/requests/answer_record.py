"""What there is of an answer (pure): enough to tell its text once more, in as little memory as that takes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.model.served import TextStream
from orchestrator.requests.answer import Answer, begin_text
from orchestrator.requests.answer_logprobs import AnswerLogprobs
from schemas.messages import RequestAnswer, StreamEnd, StreamError, StreamText


@dataclass(frozen=True)
class AnswerRecord:
    """An answer's tokens that are text, and what they are told with.

    Neither the prompt, which may be long, nor what the answer was bound to.
    """

    request: str
    model: str
    ids: Sequence[int]
    new_text: Callable[[], TextStream]
    stop: Sequence[str] = ()
    logprobs: AnswerLogprobs | None = None
    has_ended: bool = True

    @classmethod
    def of(cls, answer: Answer) -> AnswerRecord:
        """What there is of an answer by now."""
        return cls(
            request=answer.request,
            model=answer.prompt.model,
            ids=array("i", answer.shown(answer.tokens)),
            new_text=answer.new_text,
            stop=answer.stop,
            logprobs=answer.logprobs,
            has_ended=answer.finish is not None,
        )

    def text_after(self, tokens: int) -> list[StreamText]:
        """The text behind the first ``tokens`` tokens once more, for a reader who has missed it."""
        text = begin_text(self.request, self.new_text, self.stop, self.logprobs)
        return text.after(tokens, self.ids, is_end=self.has_ended)


def whole_answer(answer: AnswerRecord | None, end: StreamEnd | StreamError) -> RequestAnswer | StreamError:
    """All that was told of an answer that has ended, in one message."""
    if isinstance(end, StreamError):
        return end
    pieces = answer.text_after(0) if answer else []
    return RequestAnswer(
        request=end.request,
        text="".join(piece.text for piece in pieces),
        finish_reason=end.finish_reason,
        model=answer.model if answer else None,
        prompt_tokens=end.prompt_tokens,
        completion_tokens=end.completion_tokens,
        ttft_s=end.ttft_s,
        total_s=end.total_s,
    )
