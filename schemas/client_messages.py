"""Messages of clients: what they ask and are answered, and the events that everybody may hear of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Items, Number, about
from schemas.parts import (
    ChatMessage,
    Count,
    Line,
    Name,
    Prose,
    RequestId,
    Sampling,
    Seconds,
    StageTiming,
    TokenIds,
    Tokens,
)
from schemas.registry import message


@message("request.submit")
@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """A client asks a question. Either ``messages`` (the chat template is applied) or ``prompt`` (it is not)."""

    client: Name = about("Who asks; answers go to this client's stream topic.")
    request: RequestId = about("Chosen by the client, random.")
    pipeline: Name = about("The pipeline to ask.", default="main")
    messages: Annotated[tuple[ChatMessage, ...], Items(10_000)] = about("The conversation so far.", default=())
    prompt: Prose | None = about("Raw text instead of a conversation.", default=None)
    max_tokens: Annotated[int, Number(1, limits.MAX_ANSWER_TOKENS)] = about("Most tokens to generate.", default=256)
    sampling: Sampling = about("How tokens are chosen.", default=Sampling())
    stats: bool = about("Send per-stage figures with the end of the answer.", default=False)
    lease_s: Annotated[float, Number(1, 3600)] | None = about(
        "The request ends when its client does not renew it for so long; without, it lasts until it is answered.",
        default=None,
    )


@message("request.renew")
@dataclass(frozen=True, kw_only=True, slots=True)
class RenewRequest:
    """The client still reads the answer."""

    request: RequestId = about("The request.")
    repeat_from: Count | None = about(
        "Send the pieces from this one on once more, and the end: the client has missed them.", default=None
    )


@message("client.will")
@dataclass(frozen=True, kw_only=True, slots=True)
class ClientWill:
    """The client's connection is lost: its requests end, unless it is back and renews them within a second."""

    client: Name = about("Whose will it is.")


@message("request.cancel")
@dataclass(frozen=True, kw_only=True, slots=True)
class CancelRequest:
    """The client no longer wants the answer."""

    request: RequestId = about("The request.")


@message("stream.text")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamText:
    """A piece of the answer."""

    request: RequestId = about("The request.")
    sequence: Count = about("Counts the pieces from 0.")
    text: Prose = about("The piece; whole characters only.")
    token_ids: TokenIds = about("The tokens behind it.")


@message("stream.end")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamEnd:
    """The answer is complete."""

    request: RequestId = about("The request.")
    finish_reason: Literal["stop", "length", "cancelled"] = about("Why it ended.")
    prompt_tokens: Tokens = about("Tokens of the prompt.")
    completion_tokens: Tokens = about("Tokens generated.")
    ttft_s: Seconds = about("From submission to the first token, seen at the orchestrator.")
    total_s: Seconds = about("From submission to the end.")
    stages: Annotated[tuple[StageTiming, ...], Items(limits.MAX_STAGES)] = about(
        "Per-stage figures when asked for.", default=()
    )
    pieces: Count = about("How many pieces came before it.", default=0)


@message("stream.error")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamError:
    """There will be no (more) answer."""

    request: RequestId = about("The request.")
    code: Literal["no_model", "no_nodes", "no_memory", "not_ready", "too_long", "busy", "bad_request", "failed"] = (
        about("Why, for programs.")
    )
    reason: Line = about("One line that says what to do.")


@message("event")
@dataclass(frozen=True, kw_only=True, slots=True)
class FleetEvent:
    """Something happened that an operator may care about. Nobody depends on having heard it."""

    pipeline: Name = about("The pipeline it concerns.")
    number: Count = about("Counts the events of one start of the orchestrator from 1.")
    at_s: Annotated[float, Number(0, 1e12)] = about("When, in seconds since 1970.")
    kind: Name = about("joined, lost, drained, restored, flagged, plan, move, ...")
    node: Name | None = about("The node it concerns most.", default=None)
    text: Line = about("What happened, for people.")
    warning: bool = about("Should somebody look?", default=False)
