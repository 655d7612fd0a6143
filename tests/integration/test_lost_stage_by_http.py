"""A conversation over HTTP goes on while the node in the middle of the ring is killed: its reader sees a pause."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from tests.support.moves import PROMPT
from tests.support.nodes import start_node
from tests.support.polling import DEADLINE_S
from tests.support.real_gateway import real_gateway

MIDDLE = "c"
QUESTION: list[Any] = [{"role": "user", "content": PROMPT}]
NEXT = {"role": "user", "content": "and g(x)?"}


class Listening(httpx2.BaseTransport):
    """Notes the comments of streams, which clients pass over."""

    def __init__(self) -> None:
        self._transport = httpx2.HTTPTransport()
        self.comments: list[str] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._transport.handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = Heard(response.stream, self.comments)
        return response

    def close(self) -> None:
        self._transport.close()


class Heard(httpx2.SyncByteStream):
    """A body whose comments are noted."""

    def __init__(self, body: httpx2.SyncByteStream, comments: list[str]) -> None:
        self._body, self._comments = body, comments

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._body:
            self._comments += [line for line in piece.decode(errors="replace").splitlines() if line.startswith(":")]
            yield piece

    def close(self) -> None:
        self._body.close()


@pytest.mark.parametrize("comes_back", [True, False], ids=["it comes back", "the others take its layers"])
def test_a_conversation_goes_on_when_the_node_in_the_middle_is_killed(
    comes_back: bool, tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path
) -> None:
    listening = Listening()
    with (
        real_gateway(tiny_store, mosquitto, tmp_path, "--emulate-speed", "0.1") as gateway,
        openai.OpenAI(
            base_url=f"{gateway.root}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S,
            http_client=httpx2.Client(transport=listening),
        ) as client,
    ):  # fmt: skip

        def pieces(messages: list[Any]) -> Iterator[str]:
            stream = client.chat.completions.create(
                model="tiny", messages=messages, max_completion_tokens=60, temperature=0, stream=True
            )
            return (chunk.choices[0].delta.content or "" for chunk in stream)

        first = "".join(pieces(QUESTION))
        conversation = [*QUESTION, {"role": "assistant", "content": first}, NEXT]
        second = "".join(pieces(conversation))

        text, killed = "", False
        for piece in pieces(QUESTION):
            text += piece
            if len(text) > len(first) // 4 and not killed:
                assert gateway.nodes[MIDDLE].end(signal.SIGKILL) == -signal.SIGKILL
                listening.comments.clear()
                if comes_back:
                    gateway.nodes[MIDDLE] = start_node(MIDDLE, mosquitto.url, tmp_path / MIDDLE)
                else:
                    gateway.fleet.apply(pins=())
                killed = True
        assert killed
        assert text == first
        assert ": still there" in listening.comments
        assert "".join(pieces(conversation)) == second
