"""One answer as items and typed events."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.response_shape import ResponseShape
from schemas.messages import StreamText, TokenLogprobs
from tests.unit.orchestrator.gateway.test_completion import CALL, REQUEST, WEATHER, Answer, logprobs, pieces


def make_shape(**repeated: Any) -> ResponseShape:
    shape = ResponseShape(repeated, [WEATHER])
    shape.begin(REQUEST)
    return shape


def streamed(answer: Answer, size: int) -> list[dict[str, Any]]:
    shape = make_shape()
    events = shape.opening(0)
    for piece in pieces(answer.text, size):
        events += shape.piece(0, piece, answer)
    return [*events, *shape.end(0, answer)]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("text", ["", "abc", CALL, f"I look. {CALL}", f"{CALL}{CALL} done"])
def test_a_stream_ends_with_what_it_is_as_a_whole(text: str, size: int) -> None:
    answer = Answer(text, tool_format="tagged")
    events = streamed(answer, size)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    whole, last = make_shape().whole([answer]), events[-1]["response"]

    def shown(response: dict[str, Any]) -> list[dict[str, Any]]:
        return [{key: value for key, value in item.items() if key != "call_id"} for item in response["output"]]

    assert shown(whole) == shown(last)
    assert (last["status"], last["usage"]) == (whole["status"], whole["usage"])
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]
    assert len({item["id"] for item in done}) == len(done)


def test_what_came_before_an_error_is_told_with_it() -> None:
    shape = make_shape()
    shape.piece(0, pieces("abc", 3)[0], Answer("abc"))
    response = shape.failed(ApiError(503, "nothing serves"))["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "nothing serves"}
    assert response["output"][0]["content"][0]["text"] == "abc"


def piece_of(text: str, *tokens: TokenLogprobs) -> StreamText:
    return StreamText(
        request=REQUEST, first_token=0, first_character=0, text=text, token_ids=tuple(range(len(tokens))),
        logprobs=tokens,
    )  # fmt: skip


def test_probabilities_are_told_once_each() -> None:
    shape, answer = make_shape(), Answer("ab", tool_format=None)
    events = shape.piece(0, piece_of("a", logprobs("a")), answer)
    events += shape.piece(0, piece_of("", logprobs("")), answer)
    events += shape.piece(0, piece_of("b", logprobs("b")), answer)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in delta["logprobs"]] for delta in deltas] == [["a"], ["", "b"]]
    (done,) = [event for event in shape.end(0, answer) if event["type"] == "response.output_text.done"]
    assert [token["token"] for token in done["logprobs"]] == ["a", "", "b"]
