"""OpenAI's interface: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from orchestrator.client.question import Question
from orchestrator.gateway.access import Caller
from orchestrator.gateway.completion import ChatShape, Shape, TextShape
from orchestrator.gateway.errors import as_api_error, openai_body
from orchestrator.gateway.event_stream import COMMENT_STARTING, DONE, EventStream, comment, event
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.openai_requests import ChatRequest, CompletionRequest, SamplingFields
from orchestrator.gateway.streams import numbered_pieces, unless_hung_up
from schemas.errors import LinguabusError
from schemas.messages import StreamText

if TYPE_CHECKING:
    from orchestrator.client.async_client import AsyncAnswer


def openai_routes(gateway: Gateway) -> APIRouter:
    """The routes of a gateway."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models")
    async def models() -> dict[str, Any]:
        """The models that are served."""
        names = await gateway.models()
        return {"object": "list", "data": [_model(name, gateway) for name in names]}

    @router.get("/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return _model(await gateway.model(model), gateway)

    @router.post("/chat/completions")
    async def chat(asked: ChatRequest, request: Request, caller: Caller) -> Response:
        """Answer a conversation."""
        model = await gateway.model(asked.model, patience_s=asked.wait_s)
        question = Question(
            messages=asked.turns(),
            tools=asked.offered(),
            max_tokens=asked.most_tokens,
            logprobs=asked.alternatives,
            grammar=asked.response_format.grammar() if asked.response_format else None,
            **asked.common(),
        )
        return await _answer(gateway, caller, request, asked, question, ChatShape(model, question.tools))

    @router.post("/completions")
    async def complete(asked: CompletionRequest, request: Request, caller: Caller) -> Response:
        """Let raw text go on."""
        model = await gateway.model(asked.model, patience_s=asked.wait_s)
        shape = TextShape(model, before=asked.prompt if asked.echo else "")
        question = Question(
            prompt=asked.prompt, max_tokens=asked.most_tokens, logprobs=asked.logprobs, **asked.common()
        )
        return await _answer(gateway, caller, request, asked, question, shape)

    return router


def _model(name: str, gateway: Gateway) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": gateway.started_at, "owned_by": "linguabus"}


async def _answer(
    gateway: Gateway, caller: str, request: Request, asked: SamplingFields, question: Question, shape: Shape
) -> Response:
    """Ask as many answers as are wanted, and return them whole or as a stream."""
    with ExitStack() as held:
        questions = [question.varied(number) for number in range(asked.answers)]
        answers = await gateway.ask(caller, questions, held)
        shape.begin(answers[0].request)
        if asked.stream:
            return EventStream(_lines(gateway, asked, answers, shape), held.pop_all())
        return JSONResponse(await unless_hung_up(request, _whole(gateway, answers, shape)))


async def _whole(gateway: Gateway, answers: list[AsyncAnswer], shape: Shape) -> dict[str, Any]:
    async for _ in numbered_pieces(answers, quiet_s=gateway.limits.quiet_s):
        pass
    return shape.whole(answers)


async def _lines(
    gateway: Gateway, asked: SamplingFields, answers: list[AsyncAnswer], shape: Shape
) -> AsyncGenerator[bytes, None]:
    """The lines of a stream. Errors after its beginning are an event, as there is no other way to tell them."""
    yield COMMENT_STARTING
    try:
        for number in range(len(answers)):
            for opening in shape.opening(number):
                yield event(opening)
        async for number, piece in numbered_pieces(answers, quiet_s=gateway.limits.quiet_s):
            if isinstance(piece, StreamText):
                for part in shape.piece(number, piece, answers[number]):
                    yield event(part)
            elif piece is None:
                for part in shape.end(number, answers[number]):
                    yield event(part)
            elif piece.waiting:
                since_s = time.monotonic() - piece.waiting.since_s
                yield comment(f"waiting for {piece.waiting.text}, {since_s:.0f} s")
            else:
                yield comment("still there")
        if asked.wants_usage:
            yield event(shape.usage_event(answers))
        yield DONE
    except LinguabusError as error:
        yield event(openai_body(as_api_error(error)))
