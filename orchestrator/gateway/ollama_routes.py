"""Ollama's interface, as Home Assistant and others use it: ``/api/chat``, ``/api/generate``, ``/api/tags``, ..."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from orchestrator.client.question import Question
from orchestrator.gateway.access import Caller
from orchestrator.gateway.calls import AnswerCalls
from orchestrator.gateway.errors import ApiError, as_api_error, ollama_body
from orchestrator.gateway.event_stream import LineStream
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.host import Host
from orchestrator.gateway.ollama_requests import Asked, ChatAsked, GenerateAsked, ModelAsked
from orchestrator.gateway.streams import begun, unless_hung_up
from orchestrator.model.manifest import Manifest
from schemas import json_text
from schemas.errors import LinguabusError
from schemas.messages import StreamEnd, StreamText, Tool, ToolFormat

if TYPE_CHECKING:
    from orchestrator.client.async_answer import AsyncAnswer, StillThere

_NS = 10**9


class _JsonRoute(APIRoute):
    """Takes a body as JSON whatever it is said to be: as Ollama does, whose examples with curl say nothing.

    Pages of other hosts are told from programs before (`same_origin`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
            said = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handle(Request(said, request.receive))

        return handle_json


def ollama_routes(gateway: Gateway, host: Host | None = None) -> APIRouter:
    """The routes of a gateway; ``host``: of the fleet, where models are known by more than their names."""
    router = APIRouter(tags=["Ollama"], route_class=_JsonRoute)

    async def described(name: str) -> dict[str, Any]:
        return _model(name, gateway, await manifest(name))

    async def manifest(name: str) -> Manifest | None:
        return await asyncio.to_thread(host.manifest, name) if host else None

    @router.get("/api/tags")
    async def tags() -> dict[str, Any]:
        """The models that are served."""
        return {"models": [await described(name) for name in await gateway.models()]}

    @router.get("/api/ps")
    async def loaded() -> dict[str, Any]:
        """The models that nodes hold."""
        expires = {"expires_at": _time(gateway.started_at + 10**9), "size_vram": 0}
        return {"models": [await described(name) | expires for name in await gateway.models()]}

    @router.post("/api/show")
    async def show(asked: ModelAsked) -> dict[str, Any]:
        """What is known of a model."""
        name = await gateway.model(asked.wanted)
        capabilities = ["completion", *(["tools"] if await gateway.takes_tools() else [])]
        return {
            "modelfile": "", "parameters": "", "template": "", "details": _details(await manifest(name)),
            "model_info": {"general.architecture": "linguabus", "general.basename": name},
            "capabilities": capabilities, "modified_at": _time(gateway.started_at),
        }  # fmt: skip

    @router.post("/api/pull")
    async def pull(asked: ModelAsked) -> Response:
        """A model that is served is there already; others are added on the fleet's host."""
        try:
            await gateway.model(asked.wanted)
        except ApiError as error:
            text = f"{error}; add it on the fleet's host: linguabus model add SOURCE, and linguabus model use NAME"
            raise ApiError(error.status, text, code=error.code, field="model") from None
        lines = [_line({"status": "success"})]
        return Response(b"".join(lines), media_type="application/x-ndjson" if asked.stream else "application/json")

    @router.post("/api/chat")
    async def chat(asked: ChatAsked, request: Request, caller: Caller) -> Response:
        """Answer a conversation; without messages, say that the model is loaded."""
        asked.check()
        model = await gateway.model(asked.model)
        if not asked.messages:
            return JSONResponse(_part(model, {"message": _message("")}) | {"done": True, "done_reason": "load"})
        messages = tuple(turn.turn() for turn in asked.messages)
        question = _question(asked, messages=messages, tools=asked.offered())
        return await _answer(
            gateway, caller, request, asked, question, _Said(model, is_chat=True, tools=question.tools)
        )

    @router.post("/api/generate")
    async def generate(asked: GenerateAsked, request: Request, caller: Caller) -> Response:
        """Answer a prompt; without one, say that the model is loaded."""
        asked.check()
        model = await gateway.model(asked.model)
        if not asked.prompt:
            return JSONResponse(_part(model, {"response": ""}) | {"done": True, "done_reason": "load"})
        question = _question(asked, messages=asked.turns(), prompt=asked.prompt if asked.raw else None)
        return await _answer(gateway, caller, request, asked, question, _Said(model, is_chat=False))

    return router


def _question(asked: Asked, **of: Any) -> Question:
    options = asked.options
    return Question(
        max_tokens=options.most_tokens,
        sampling=options.sampling(),
        stop=tuple(options.stop),
        grammar=asked.grammar(),
        **of,
    )


class _Said:
    """The lines of one answer: a chat's, with calls of tools, or a plain response's."""

    def __init__(self, model: str, *, is_chat: bool, tools: Sequence[Tool] = ()) -> None:
        self.model = model
        self._is_chat = is_chat
        self._calls = AnswerCalls([tool.name for tool in tools])

    def parts(self, text: str, form: ToolFormat | None) -> list[dict[str, Any]]:
        """Those of a piece of text."""
        return [self._part(delta) for delta in self._calls.push(text, form)]

    def rest(self) -> list[dict[str, Any]]:
        """Those of what was held back."""
        return [self._part(delta) for delta in self._calls.finish()]

    def nothing(self) -> dict[str, Any]:
        """One without text."""
        return self._part({})

    def whole(self, text: str, form: ToolFormat | None) -> dict[str, Any]:
        """The only one of an answer that is told whole."""
        deltas = [*self._calls.push(text, form), *self._calls.finish()]
        whole = self._part({"content": "".join(delta.get("content", "") for delta in deltas)})
        if self._calls.found:
            whole["message"]["tool_calls"] = [_shown_call(call) for call in self._calls.found]
        return whole

    def _part(self, delta: dict[str, Any]) -> dict[str, Any]:
        text = delta.get("content", "")
        said: dict[str, Any] = {"message": _message(text)} if self._is_chat else {"response": text}
        if calls := delta.get("tool_calls"):
            said["message"]["tool_calls"] = [_shown_call(call) for call in calls]
        return _part(self.model, said)


def _shown_call(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object."""
    function = call["function"]
    return {"function": {"name": function["name"], "arguments": json.loads(function["arguments"])}}


async def _answer(
    gateway: Gateway, caller: str, request: Request, asked: Asked, question: Question, said: _Said
) -> Response:
    with ExitStack() as held:
        (answer,) = await gateway.ask(caller, said.model, [question], held)
        if asked.stream:
            pieces = await begun(answer.pieces(quiet_s=gateway.limits.quiet_s), [answer], held)
            return LineStream(_lines(pieces, answer, said), held.pop_all(), "application/x-ndjson")
        text = await unless_hung_up(request, answer.whole())
        assert answer.end
        return JSONResponse(said.whole(text, answer.tool_format) | _end(answer.end))


async def _lines(
    pieces: AsyncGenerator[StreamText | StillThere, None], answer: AsyncAnswer, said: _Said
) -> AsyncGenerator[bytes, None]:
    """The lines of a stream. While nothing comes, empty pieces keep it open: there are no comments here."""
    try:
        async for piece in pieces:
            parts = [said.nothing()]
            if isinstance(piece, StreamText):
                parts = said.parts(piece.text, answer.tool_format)
            for part in parts:
                yield _line(part | {"done": False})
        for part in said.rest():
            yield _line(part | {"done": False})
        assert answer.end
        yield _line(said.nothing() | _end(answer.end))
    except LinguabusError as error:
        yield _line(ollama_body(as_api_error(error)))


def _line(value: dict[str, Any]) -> bytes:
    return json_text.compact(value).encode() + b"\n"


def _part(model: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "created_at": _time(None), **said}


def _message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _end(end: StreamEnd) -> dict[str, Any]:
    """The figures of an answer, times in nanoseconds."""
    return {
        "done": True,
        "done_reason": "length" if end.finish_reason == "length" else "stop",
        "total_duration": int(end.total_s * _NS),
        "load_duration": 0,
        "prompt_eval_count": end.prompt_tokens,
        "prompt_eval_duration": int(end.ttft_s * _NS),
        "eval_count": end.completion_tokens,
        "eval_duration": int((end.total_s - end.ttft_s) * _NS),
    }


def _model(name: str, gateway: Gateway, manifest: Manifest | None) -> dict[str, Any]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "name": name, "model": name, "modified_at": _time(gateway.started_at),
        "size": manifest.weight_bytes if manifest else 0, "digest": digest, "details": _details(manifest),
    }  # fmt: skip


def _details(manifest: Manifest | None) -> dict[str, Any]:
    """No manifest counts parameters: their size stays empty."""
    family = manifest.family if manifest else "linguabus"
    return {
        "parent_model": "", "format": "onnx", "family": family, "families": [family], "parameter_size": "",
        "quantization_level": manifest.precision if manifest else "",
    }  # fmt: skip


def _time(at_s: float | None) -> str:
    """In RFC 3339; None: now."""
    zone = datetime.UTC
    when = datetime.datetime.now(zone) if at_s is None else datetime.datetime.fromtimestamp(at_s, zone)
    return when.isoformat().replace("+00:00", "Z")
