"""Completions in OpenAI's shapes: whole, and as the events of a stream (pure)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from schemas.messages import StreamEnd, StreamText

_REASONS = {"stop": "stop", "length": "length", "cancelled": "stop"}


class Answered(Protocol):
    """What is read of an answer."""

    text: str
    end: StreamEnd | None


class Shape:
    """The shape of one completion, which may have several choices."""

    kind = ""
    chunk_kind = ""
    prefix = ""

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = ""
        self._created = int(time.time())

    def begin(self, request: str) -> None:
        """Name it by the orchestrator's request, by which its story is found."""
        self._id = f"{self.prefix}{request}"

    def whole(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """The completion once all its answers have ended."""
        choices = [
            self._choice(number, _reason(answer), **self._said(answer.text)) for number, answer in enumerate(answers)
        ]
        return self._frame(self.kind, choices) | {"usage": usage(answers)}

    def opening(self, number: int) -> dict[str, Any] | None:
        """The event before an answer's first piece."""
        return None

    def piece(self, number: int, piece: StreamText) -> dict[str, Any]:
        """The event of a piece."""
        return self._frame(self.chunk_kind, [self._choice(number, None, **self._part(piece.text))])

    def end(self, number: int, answer: Answered) -> dict[str, Any]:
        """The event of an answer's end."""
        return self._frame(self.chunk_kind, [self._choice(number, _reason(answer), **self._part(""))])

    def usage_event(self, answers: Sequence[Answered]) -> dict[str, Any]:
        """The event with the numbers of tokens, after all ends."""
        return self._frame(self.chunk_kind, []) | {"usage": usage(answers)}

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices,
        }  # fmt: skip

    def _choice(self, number: int, reason: str | None, **said: Any) -> dict[str, Any]:
        return {"index": number, **said, "logprobs": None, "finish_reason": reason}

    def _said(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def _part(self, text: str) -> dict[str, Any]:
        raise NotImplementedError


class ChatShape(Shape):
    """An answer in a conversation."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def opening(self, number: int) -> dict[str, Any]:
        """The event that says who speaks."""
        return self._frame(self.chunk_kind, [self._choice(number, None, delta={"role": "assistant", "content": ""})])

    def _said(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _part(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


class TextShape(Shape):
    """Text that goes on; ``before``: what stands before it in the answer."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, model: str, *, before: str = "") -> None:
        super().__init__(model)
        self._before = before

    def opening(self, number: int) -> dict[str, Any] | None:
        """The event of the prompt, where that is to be said again."""
        return self._frame(self.kind, [self._choice(number, None, text=self._before)]) if self._before else None

    def _said(self, text: str) -> dict[str, Any]:
        return {"text": self._before + text}

    def _part(self, text: str) -> dict[str, Any]:
        return {"text": text}


def usage(answers: Sequence[Answered]) -> dict[str, Any]:
    """The numbers of tokens; the prompt counts once."""
    ends = [answer.end for answer in answers if answer.end]
    prompt = ends[0].prompt_tokens if ends else 0
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _reason(answer: Answered) -> str | None:
    return _REASONS[answer.end.finish_reason] if answer.end else None
