"""OpenAI's interface: ``/v1/responses``, ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from orchestrator.client.question import Question
from orchestrator.gateway.access import Caller
from orchestrator.gateway.answering import answered
from orchestrator.gateway.completion import ChatShape, TextShape
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.openai_requests import ChatRequest, CompletionRequest
from orchestrator.gateway.response_requests import ResponseRequest
from orchestrator.gateway.response_shape import ResponseShape


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

    @router.post("/responses")
    async def respond(asked: ResponseRequest, request: Request, caller: Caller) -> Response:
        """Answer a conversation, in items. Nothing of it is stored."""
        asked.check()
        model = await gateway.model(asked.model, patience_s=asked.wait_s)
        question = Question(
            messages=asked.turns(),
            tools=asked.offered(),
            max_tokens=asked.most_tokens,
            logprobs=asked.alternatives,
            grammar=asked.grammar(),
            **asked.common(),
        )
        shape = ResponseShape(asked.shown(model), question.tools)
        return await answered(gateway, caller, request, [question], model, shape, stream=asked.stream)

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
        questions = [question.varied(number) for number in range(asked.answers)]
        shape = ChatShape(model, question.tools, tells_usage=asked.wants_usage)
        return await answered(gateway, caller, request, questions, model, shape, stream=asked.stream)

    @router.post("/completions")
    async def complete(asked: CompletionRequest, request: Request, caller: Caller) -> Response:
        """Let raw text go on."""
        model = await gateway.model(asked.model, patience_s=asked.wait_s)
        question = Question(
            prompt=asked.prompt, max_tokens=asked.most_tokens, logprobs=asked.logprobs, **asked.common()
        )
        questions = [question.varied(number) for number in range(asked.answers)]
        shape = TextShape(model, before=asked.prompt if asked.echo else "", tells_usage=asked.wants_usage)
        return await answered(gateway, caller, request, questions, model, shape, stream=asked.stream)

    return router


def _model(name: str, gateway: Gateway) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": gateway.started_at, "owned_by": "linguabus"}
