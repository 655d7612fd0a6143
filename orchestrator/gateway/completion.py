"""Completions as OpenAI's interface shows them (pure)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.gateway.calls import AnswerCalls
from orchestrator.gateway.logprobs import chat_logprobs, text_logprobs
from orchestrator.gateway.shape import Answered, Event, Shape
from schemas.messages import StreamText, Tool

_REASONS = {"stop": "stop", "length": "length", "cancelled": "stop"}


class CompletionShape(Shape):
    """A completion, whose answers are its choices."""

    kind = ""
    chunk_kind = ""
    prefix = ""

    def __init__(self, model: str, *, tells_usage: bool = False) -> None:
        """``tells_usage``: whether a stream ends with the numbers of tokens."""
        self._model = model
        self._tells_usage = tells_usage
        self._id = ""
        self._created = int(time.time())

    def begin(self, request: str) -> None:
        """Take the request's name."""
        self._id = f"{self.prefix}{request}"

    def whole(self, answers: Sequence[Answered]) -> Event:
        """The completion once all its answers have ended."""
        choices = [self._whole_choice(number, answer) for number, answer in enumerate(answers)]
        return self._frame(self.kind, choices) | {"usage": usage(answers)}

    def closing(self, answers: Sequence[Answered]) -> list[Event]:
        """The event with the numbers of tokens, where it is wanted."""
        return [self._frame(self.chunk_kind, []) | {"usage": usage(answers)}] if self._tells_usage else []

    def _whole_choice(self, number: int, answer: Answered) -> Event:
        raise NotImplementedError

    def _frame(self, kind: str, choices: list[Event]) -> Event:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices,
        }  # fmt: skip

    def _chunk(self, number: int, said: Event, *, logprobs: Event | None = None, reason: str | None = None) -> Event:
        return self._frame(self.chunk_kind, [_choice(number, said, logprobs, reason)])


class ChatShape(CompletionShape):
    """An answer in a conversation, which may call tools."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"

    def __init__(self, model: str, tools: Sequence[Tool] = (), *, tells_usage: bool = False) -> None:
        super().__init__(model, tells_usage=tells_usage)
        self._calls: Callable[[], AnswerCalls] = lambda: AnswerCalls([tool.name for tool in tools])
        self._by_number: dict[int, AnswerCalls] = {}

    def opening(self, number: int) -> list[Event]:
        """The event that says who speaks."""
        return [self._chunk(number, {"delta": {"role": "assistant", "content": ""}})]

    def piece(self, number: int, piece: StreamText, answer: Answered) -> list[Event]:
        """Content as it is, calls once they are whole."""
        calls = self._by_number.setdefault(number, self._calls())
        deltas = calls.push(piece.text, answer.tool_format)
        logprobs = chat_logprobs(piece.logprobs)
        if logprobs and not deltas:
            deltas = [{}]
        events = [self._chunk(number, {"delta": delta}) for delta in deltas]
        if logprobs:
            events[0]["choices"][0]["logprobs"] = logprobs
        return events

    def end(self, number: int, answer: Answered) -> list[Event]:
        """What was held back, and why the answer has ended."""
        calls = self._by_number.setdefault(number, self._calls())
        events = [self._chunk(number, {"delta": delta}) for delta in calls.finish()]
        return [*events, self._chunk(number, {"delta": {}}, reason=_reason(answer, calls))]

    def _whole_choice(self, number: int, answer: Answered) -> Event:
        calls = self._calls()
        deltas = [*calls.push(answer.text, answer.tool_format), *calls.finish()]
        content = "".join(delta.get("content", "") for delta in deltas)
        message: Event = {"role": "assistant", "content": content, "refusal": None}
        if calls.found:
            message |= {"content": content or None, "tool_calls": calls.found}
        return _choice(number, {"message": message}, chat_logprobs(answer.logprobs), _reason(answer, calls))


class TextShape(CompletionShape):
    """Text that goes on; ``before``: what stands before it in the answer."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def __init__(self, model: str, *, before: str = "", tells_usage: bool = False) -> None:
        super().__init__(model, tells_usage=tells_usage)
        self._before = before

    def opening(self, number: int) -> list[Event]:
        """The event of the prompt, where that is to be said again."""
        return [self._chunk(number, {"text": self._before})] if self._before else []

    def piece(self, number: int, piece: StreamText, answer: Answered) -> list[Event]:
        """The text as it is."""
        logprobs = text_logprobs(piece.logprobs, len(self._before) + piece.first_character)
        return [self._chunk(number, {"text": piece.text}, logprobs=logprobs)] if piece.text or logprobs else []

    def end(self, number: int, answer: Answered) -> list[Event]:
        """Why it has ended."""
        return [self._chunk(number, {"text": ""}, reason=_reason(answer))]

    def _whole_choice(self, number: int, answer: Answered) -> Event:
        logprobs = text_logprobs(answer.logprobs, len(self._before))
        return _choice(number, {"text": self._before + answer.text}, logprobs, _reason(answer))


def usage(answers: Sequence[Answered]) -> Event:
    """The numbers of tokens; the prompt counts once."""
    ends = [answer.end for answer in answers if answer.end]
    prompt = ends[0].prompt_tokens if ends else 0
    completion = sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _choice(number: int, said: Event, logprobs: Event | None, reason: str | None) -> Event:
    return {"index": number, **said, "logprobs": logprobs, "finish_reason": reason}


def _reason(answer: Answered, calls: AnswerCalls | None = None) -> str | None:
    if answer.end is None:
        return None
    if calls and calls.found and answer.end.finish_reason == "stop":
        return "tool_calls"
    return _REASONS[answer.end.finish_reason]
