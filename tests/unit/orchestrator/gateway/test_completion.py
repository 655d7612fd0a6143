"""Completions in OpenAI's shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.gateway.completion import ChatShape, Shape, TextShape
from schemas.messages import FinishReason, LikelyToken, StreamEnd, StreamText, TokenLogprobs, Tool, ToolFormat

REQUEST = "0" * 16
WEATHER = Tool(name="weather")
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@dataclass
class Answer:
    text: str
    finish: FinishReason = "stop"
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    tool_format: ToolFormat | None = None

    @property
    def end(self) -> StreamEnd:
        return StreamEnd(
            request=REQUEST, finish_reason=self.finish, prompt_tokens=5, completion_tokens=3, ttft_s=0.1, total_s=0.2
        )


def pieces(text: str, size: int) -> list[StreamText]:
    return [
        StreamText(request=REQUEST, first_token=at, first_character=at, text=text[at : at + size], token_ids=())
        for at in range(0, len(text), size)
    ]


def streamed(shape: Shape, answer: Answer, size: int) -> list[dict[str, Any]]:
    """The choices of a stream's events."""
    events = [*shape.opening(0)]
    for piece in pieces(answer.text, size):
        events += shape.piece(0, piece, answer)
    return [event["choices"][0] for event in [*events, *shape.end(0, answer)]]


def logprobs(text: str, value: float | None = -0.5) -> TokenLogprobs:
    return TokenLogprobs(text=text, logprob=value, top=(LikelyToken(token_id=1, text=text, logprob=-0.5),))


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_call_comes_out_of_the_text_whole(size: int) -> None:
    answer = Answer(f"Let me see. {CALL}", tool_format="tagged")
    choices = streamed(ChatShape("tiny", [WEATHER]), answer, size)
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see. "
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (call["index"], call["type"], call["function"]["name"]) == (0, "function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert choices[-1]["finish_reason"] == "tool_calls"
    (choice,) = ChatShape("tiny", [WEATHER]).whole([answer])["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == call["function"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me see. ", "tool_calls")


def test_a_call_alone_has_no_content() -> None:
    answer = Answer(CALL, tool_format="tagged")
    (choice,) = ChatShape("tiny", [WEATHER]).whole([answer])["choices"]
    assert choice["message"]["content"] is None


@pytest.mark.parametrize(("tools", "form"), [([], "tagged"), ([WEATHER], None), ([Tool(name="other")], "tagged")])
def test_what_nobody_offered_stays_text(tools: list[Tool], form: ToolFormat | None) -> None:
    answer = Answer(CALL, tool_format=form)
    (choice,) = ChatShape("tiny", tools).whole([answer])["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
    choices = streamed(ChatShape("tiny", tools), answer, 2)
    assert "".join(choice["delta"].get("content", "") for choice in choices) == CALL


def test_a_call_that_was_cut_off_ended_for_length() -> None:
    answer = Answer(CALL[:-20], finish="length", tool_format="tagged")
    choices = streamed(ChatShape("tiny", [WEATHER]), answer, 5)
    assert "".join(choice["delta"].get("content", "") for choice in choices) == CALL[:-20]
    assert choices[-1]["finish_reason"] == "length"


def test_probabilities_of_a_conversation() -> None:
    piece = StreamText(
        request=REQUEST, first_token=0, first_character=0, text="é", token_ids=(1, 2),
        logprobs=(logprobs("\ufffd", None), logprobs("\ufffd")),
    )  # fmt: skip
    (event,) = ChatShape("tiny").piece(0, piece, Answer(""))
    first, second = event["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["logprob"]) == ("\ufffd", -9999.0)
    assert second["top_logprobs"] == [{"token": "\ufffd", "logprob": -0.5, "bytes": [239, 191, 189]}]
    whole = ChatShape("tiny").whole([Answer("é", logprobs=[logprobs("é")])])
    assert whole["choices"][0]["logprobs"]["content"][0]["bytes"] == [195, 169]


def test_probabilities_of_tokens_without_text_are_told_too() -> None:
    piece = StreamText(
        request=REQUEST, first_token=0, first_character=0, text="", token_ids=(1,), logprobs=(logprobs(""),)
    )
    (event,) = ChatShape("tiny").piece(0, piece, Answer(""))
    assert event["choices"][0]["delta"] == {}
    assert len(event["choices"][0]["logprobs"]["content"]) == 1


def test_probabilities_of_text_that_goes_on() -> None:
    shape = TextShape("tiny", before="abc")
    whole = shape.whole([Answer("defg", logprobs=[logprobs("de"), logprobs("fg")])])["choices"][0]
    assert whole["text"] == "abcdefg"
    assert whole["logprobs"]["tokens"] == ["de", "fg"]
    assert whole["logprobs"]["text_offset"] == [3, 5]
    assert whole["logprobs"]["top_logprobs"] == [{"de": -0.5}, {"fg": -0.5}]
    piece = StreamText(
        request=REQUEST, first_token=1, first_character=2, text="fg", token_ids=(2,), logprobs=(logprobs("fg"),)
    )
    (event,) = shape.piece(0, piece, Answer(""))
    assert event["choices"][0]["logprobs"]["text_offset"] == [5]


def test_the_prompt_counts_once() -> None:
    whole = ChatShape("tiny").whole([Answer("a"), Answer("b")])
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
