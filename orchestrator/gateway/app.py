"""The gateway's application: its routes, and what is said where something goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from orchestrator.gateway.access import Guard, known_caller
from orchestrator.gateway.command_routes import command_routes
from orchestrator.gateway.counted import Counted
from orchestrator.gateway.errors import ApiError, as_api_error, ollama_body, openai_body
from orchestrator.gateway.fleet_routes import fleet_routes
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.host import Host
from orchestrator.gateway.host_routes import UPLOAD_PATH, host_routes
from orchestrator.gateway.ollama_routes import ollama_routes
from orchestrator.gateway.openai_routes import openai_routes
from orchestrator.gateway.page_routes import page_routes
from orchestrator.gateway.same_origin import same_origin
from orchestrator.gateway.state_routes import state_routes
from orchestrator.gateway.streams import HungUp
from orchestrator.gateway.wrong_fields import in_words, wrong_field
from orchestrator.text.figures import size_text
from schemas import PACKAGE_VERSION
from schemas.errors import LinguabusError

_log = logging.getLogger(__name__)
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""What this machine is asked by where no key is asked for."""
_CLOSED_BY_CALLER = 499
_REFUSALS = (400, 401, 403, 404, 409, 411, 413, 415, 422, 429, 503, 507)
_SAID = {
    400: "the body can't be read: send JSON in UTF-8, not nested deeper than anybody means",
    401: "no valid API key: make one with 'linguabus key NAME' on the fleet's host",
    404: "there is nothing at this address; see /openapi.json",
    405: "this address does not take that method; see /openapi.json",
    413: "the body is too long: send a shorter conversation",
    429: "too many wrong keys from your address",
    431: "the headers are too long",
}

_CODES = {401: "invalid_api_key", 413: "too_long"}


def make_app(gateway: Gateway, *, guard: Guard, host: Host | None = None) -> FastAPI:
    """The application of a gateway; ``host``: of the fleet, where the gateway runs there."""
    app = FastAPI(
        title="linguabus",
        version=PACKAGE_VERSION,
        docs_url=None,  # its page would be fetched from another host
        redoc_url=None,
        separate_input_output_schemas=False,
        responses={code: {"description": "See the body's message."} for code in _REFUSALS},
    )
    app.state.guard = guard
    if guard.access is None:
        # A page from elsewhere, whose name was made this machine's, would ask as if it were from here.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(OWN_NAMES))
    app.add_middleware(Counted, metrics=gateway.metrics)
    own = [Depends(known_caller), Depends(same_origin)]
    for routes in (
        openai_routes(gateway),
        ollama_routes(gateway, host),
        fleet_routes(gateway),
        command_routes(gateway),
        host_routes(gateway, host, guard),
    ):
        app.include_router(routes, dependencies=own)
    app.include_router(state_routes(gateway))
    app.include_router(page_routes())
    app.add_exception_handler(LinguabusError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(HungUp, _gone)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def refusal(upload_bytes: int) -> Callable[[str, int], Response]:
    """What is said of requests that no route gets to see; ``upload_bytes``: the most of a model's file."""
    too_long = f"the file is longer than {size_text(upload_bytes)}, the most that is taken here: add it on the fleet's"

    def refuse(path: str, status: int) -> Response:
        said = _SAID[status]
        if status == 413 and path == UPLOAD_PATH:
            said = f"{too_long} host, linguabus model add FILE"
        return _response(path, ApiError(status, said, code=_CODES.get(status)))

    return refuse


def _respond(request: Request, error: ApiError) -> Response:
    return _response(request.url.path, error)


def _response(path: str, error: ApiError) -> Response:
    body = ollama_body(error) if path.startswith("/api/") else openai_body(error)
    return JSONResponse(body, status_code=error.status, headers=error.headers)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, LinguabusError)
    return _respond(request, as_api_error(error))


async def _invalid(request: Request, error: Exception) -> Response:
    """Name a wrong field; what was in it is not repeated."""
    assert isinstance(error, RequestValidationError)
    place, found = wrong_field(error.errors(), error.body)
    field = place or None
    if found["type"] == "json_invalid":
        return _respond(request, ApiError(400, "the body is not JSON", code="invalid_json"))
    if field is None and found["type"] == "model_attributes_type":
        text = "the body is not a JSON object: send one, with the header content-type: application/json"
        return _respond(request, ApiError(400, text, code="invalid_json"))
    message = f"{field or 'the body'}: {in_words(found)}"
    code = "missing_required_parameter" if found["type"] == "missing" else "invalid_value"
    return _respond(request, ApiError(422, message, code=code, field=field))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    said = ApiError(status, _SAID.get(status, error.detail), code=_CODES.get(status))
    response = _respond(request, said)
    response.headers.update(error.headers or {})
    return response


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLOSED_BY_CALLER)


async def _unforeseen(request: Request, error: Exception) -> Response:
    """An error that nobody foresaw. Its text may have something of a prompt: only where it is from is logged."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    _log.error("%s %s failed: %s at %s", request.method, request.url.path, type(error).__name__, place)
    return _respond(request, ApiError(500, "something went wrong in the gateway; its log has the place", code="failed"))
