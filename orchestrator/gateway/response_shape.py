"""One answer as OpenAI's ``/v1/responses`` shows it: items of text and of calls, and typed events (pure)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from orchestrator.gateway.calls import AnswerCalls
from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.event_stream import event
from orchestrator.gateway.logprobs import chat_logprobs
from orchestrator.gateway.shape import Answered, Event, Shape
from schemas.messages import StreamEnd, StreamText, TokenLogprobs, Tool

Status = Literal["in_progress", "completed", "incomplete", "failed"]


class ResponseShape(Shape):
    """A response. Text is shown as it comes, a call once it is whole."""

    last_line = b""
    """The event with the whole response is the last one."""

    def __init__(self, repeated: Mapping[str, Any], tools: Sequence[Tool] = ()) -> None:
        """``repeated``: what it repeats of the request."""
        self._repeated = repeated
        self._calls = AnswerCalls([tool.name for tool in tools])
        self._name = ""
        self._created_at = int(time.time())
        self._events = 0
        self._items: list[Event] = []
        """Those that are complete."""
        self._message: _Message | None = None
        """The one that grows, behind these."""

    def begin(self, request: str) -> None:
        """Take the request's name."""
        self._name = request

    def whole(self, answers: Sequence[Answered]) -> Event:
        """The response once the answer has ended."""
        (answer,) = answers
        assert answer.end
        self._said(self._calls.push(answer.text, answer.tool_format), answer.logprobs)
        self._rest(answer.end)
        return self._response(_status(answer.end), answer.end)

    def opening(self, number: int) -> list[Event]:
        """The response before there is anything of it."""
        response = self._response("in_progress")
        return [
            self._event("response.created", response=response),
            self._event("response.in_progress", response=response),
        ]

    def piece(self, number: int, piece: StreamText, answer: Answered) -> list[Event]:
        """The events of its text, and of the calls that are whole."""
        return self._said(self._calls.push(piece.text, answer.tool_format), piece.logprobs or ())

    def end(self, number: int, answer: Answered) -> list[Event]:
        """What was held back, and the whole response."""
        assert answer.end
        status = _status(answer.end)
        rest = self._rest(answer.end)
        return [*rest, self._event(f"response.{status}", response=self._response(status, answer.end))]

    def failed(self, error: ApiError) -> Event:
        """The response as far as it has come, with the error."""
        code = {429: "rate_limit_exceeded"}.get(
            error.status, "invalid_prompt" if error.status < 500 else "server_error"
        )
        response = self._response("failed") | {"error": {"code": code, "message": str(error)}}
        return self._event("response.failed", response=response)

    def line(self, shown: Event) -> bytes:
        """An event with its type as its name."""
        return event(shown, shown["type"])

    def _said(self, deltas: Sequence[Event], logprobs: Sequence[TokenLogprobs]) -> list[Event]:
        """The events of an answer's deltas; the probabilities are told with the first text from here on."""
        events: list[Event] = []
        for delta in deltas:
            if text := delta.get("content"):
                events += self._open_message()
                assert self._message
                self._message.text += text
                shown = self._message.tell(logprobs)
                logprobs = ()
                events.append(self._part_event("response.output_text.delta", delta=text, logprobs=shown))
            for call in delta.get("tool_calls", ()):
                events += [*self._close_message("completed"), *self._call(call)]
        if self._message and logprobs:
            self._message.hold(logprobs)
        return events

    def _rest(self, end: StreamEnd) -> list[Event]:
        """The events of what was held back. Where nothing at all was said, the message is empty."""
        events = self._said(self._calls.finish(), ())
        if not self._items and not self._message:
            events += self._open_message()
        return [*events, *self._close_message(_status(end))]

    def _open_message(self) -> list[Event]:
        if self._message:
            return []
        self._message = _Message(f"msg_{self._name}{len(self._items)}")
        return [
            self._event(
                "response.output_item.added", output_index=len(self._items), item=self._message.item("in_progress")
            ),
            self._part_event("response.content_part.added", part=_Message("").part()),
        ]

    def _close_message(self, status: Status) -> list[Event]:
        if not self._message:
            return []
        message, number = self._message, len(self._items)
        part = message.part()
        events = [
            self._part_event("response.output_text.done", text=message.text, logprobs=part["logprobs"]),
            self._part_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=number, item=message.item(status)),
        ]
        self._items.append(message.item(status))
        self._message = None
        return events

    def _call(self, call: Event) -> list[Event]:
        number = len(self._items)
        item_id, function = f"fc_{self._name}{number}", call["function"]
        item = {"id": item_id, "type": "function_call", "call_id": call["id"], **function, "status": "completed"}
        self._items.append(item)
        place = {"item_id": item_id, "output_index": number}
        arguments = function["arguments"]
        begun = item | {"arguments": "", "status": "in_progress"}
        return [
            self._event("response.output_item.added", output_index=number, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=arguments),
            self._event("response.function_call_arguments.done", **place, name=function["name"], arguments=arguments),
            self._event("response.output_item.done", output_index=number, item=item),
        ]

    def _part_event(self, kind: str, **shown: Any) -> Event:
        """An event of the growing message, which has one part."""
        assert self._message
        return self._event(kind, item_id=self._message.id, output_index=len(self._items), content_index=0, **shown)

    def _event(self, kind: str, **shown: Any) -> Event:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **shown}

    def _response(self, status: Status, end: StreamEnd | None = None) -> Event:
        growing = [self._message.item("incomplete")] if self._message else []
        return {
            "id": f"resp_{self._name}",
            "object": "response",
            "created_at": self._created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": [*self._items, *growing],
            **self._repeated,
            "usage": _usage(end) if end else None,
        }


class _Message:
    """A message of one part, as far as it has come."""

    def __init__(self, message_id: str) -> None:
        self.id = message_id
        self.text = ""
        self._logprobs: list[Event] = []
        self._told = 0

    def hold(self, tokens: Sequence[TokenLogprobs]) -> None:
        """Tell these with the next text."""
        found = chat_logprobs(tokens)
        self._logprobs += found["content"] if found else []

    def tell(self, tokens: Sequence[TokenLogprobs]) -> list[Event]:
        """The probabilities that are not told yet, these included."""
        self.hold(tokens)
        told, self._told = self._told, len(self._logprobs)
        return self._logprobs[told:]

    def part(self) -> Event:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": list(self._logprobs)}

    def item(self, status: Status) -> Event:
        content = [] if status == "in_progress" else [self.part()]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


def _status(end: StreamEnd) -> Status:
    return "incomplete" if end.finish_reason == "length" else "completed"


def _usage(end: StreamEnd) -> Event:
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }
