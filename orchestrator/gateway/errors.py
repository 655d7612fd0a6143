"""What callers by HTTP are told when something can't be done: a status, a code for programs, a line for people."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.client.errors import (
    AnswerFailed,
    AnswerIncomplete,
    ClientError,
    ControlRefused,
    NoOrchestrator,
    OtherModel,
    QuestionTooLong,
)
from orchestrator.errors import OrchestratorError
from orchestrator.identity.errors import (
    AlreadyMember,
    HostUnknown,
    NobodyInvited,
    NoFleet,
    OwnMember,
    UnknownMember,
)
from orchestrator.model.errors import NoRoom
from schemas.errors import ContractError, LinguabusError, MessageTooLong

RETRY_AFTER_S = 5.0
"""After this it makes sense to ask again where something was missing."""
_MISSING = ("no_model", "no_nodes", "no_memory", "not_ready", "unknown", "malformed")
"""Codes of `StreamError` that another time would not meet."""
_KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(OrchestratorError):
    """A request that is not answered.

    Attributes:
        status: HTTP's.
        code: for programs; None where the status says it all.
        field: the field of the request that is to blame, dotted; None where none is.
        retry_after_s: when to ask again; None where that would change nothing.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """Those that go with the status."""
        return {} if self.retry_after_s is None else {"retry-after": str(math.ceil(self.retry_after_s))}


def as_api_error(error: LinguabusError) -> ApiError:
    """What a caller is told of an error of ours."""
    text = str(error)
    match error:
        case ApiError():
            return error
        case AnswerFailed(code="too_long"):
            return ApiError(400, text, code="context_length_exceeded", field="messages")
        case AnswerFailed(code="bad_request"):
            return ApiError(400, text, code="bad_request")
        case AnswerFailed(code="busy"):
            return ApiError(429, text, code="busy", retry_after_s=RETRY_AFTER_S)
        case AnswerFailed(code=code) if code in _MISSING:
            return ApiError(503, text, code=code, retry_after_s=RETRY_AFTER_S)
        case OtherModel():
            return ApiError(503, text, code="model_changed", retry_after_s=RETRY_AFTER_S)
        case QuestionTooLong() | MessageTooLong():
            return ApiError(413, text, code="too_long")
        case NoOrchestrator() | AnswerIncomplete():
            return ApiError(503, text, code="not_ready", retry_after_s=RETRY_AFTER_S)
        case ContractError():
            return ApiError(422, text, code="invalid_value")
        case NoRoom():
            return ApiError(507, text, code="no_room")
        case UnknownMember():
            return ApiError(404, text, code="unknown_member")
        case AlreadyMember(is_full=False):  # as the page and the request have it, which know no options
            remedy = "choose another name, or say that it is a member that has lost its key (again)"
            return ApiError(409, f"{error.there}: {remedy}", code="refused", field="again")
        case AlreadyMember() | HostUnknown() | NobodyInvited() | NoFleet() | OwnMember() | ControlRefused():
            return ApiError(409, text, code="refused")
        case ClientError():
            return ApiError(502, text, code="failed")
    return ApiError(503, text, code="failed", retry_after_s=RETRY_AFTER_S)


def openai_body(error: ApiError) -> dict[str, Any]:
    """The error as OpenAI's clients expect it."""
    kind = _KINDS.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.field, "code": error.code}}


def ollama_body(error: ApiError) -> dict[str, Any]:
    """The error as Ollama's clients expect it."""
    return {"error": str(error)}
