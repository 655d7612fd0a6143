"""Messages of clients: what they ask and are answered, and the events that everybody may hear of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Items, Number, about
from schemas.parts import (
    Alternatives,
    ChatMessage,
    Count,
    Grammar,
    Line,
    Name,
    RequestId,
    ResponseTo,
    Sampling,
    Seconds,
    StageTiming,
    StopText,
    TokenIds,
    TokenLogprobs,
    Tokens,
    Tool,
    ToolFormat,
    Verbatim,
)
from schemas.registry import message

FinishReason = Literal["stop", "length", "cancelled"]
ErrorCode = Literal[
    "no_model",
    "no_nodes",
    "no_memory",
    "not_ready",
    "too_long",
    "busy",
    "bad_request",
    "failed",
    "unknown",
    "malformed",
]


@message("request.submit")
@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """A client asks a question. Either ``messages`` (the chat template is applied) or ``prompt`` (it is not)."""

    client: Name = about("Who asks; answers go to this client's stream topic.")
    request: RequestId = about("Chosen by the client, random.")
    pipeline: Name = about("The pipeline to ask.", default="main")
    messages: Annotated[tuple[ChatMessage, ...], Items(10_000)] = about("The conversation so far.", default=())
    tools: Annotated[tuple[Tool, ...], Items(limits.MAX_TOOLS)] = about(
        "Functions that the model may ask to be called; only with messages.", default=()
    )
    prompt: Verbatim | None = about("Raw text instead of a conversation.", default=None)
    max_tokens: Annotated[int, Number(1, limits.MAX_ANSWER_TOKENS)] = about("Most tokens to generate.", default=256)
    sampling: Sampling = about("How tokens are chosen.", default=Sampling())
    stop: Annotated[tuple[StopText, ...], Items(limits.MAX_STOP_STRINGS)] = about(
        "The answer ends before the first of these texts: the one that is complete first. It is not sent.", default=()
    )
    grammar: Grammar | None = about(
        "The form that the answer has to have; it ends where nothing can follow, and may be cut by max_tokens.",
        default=None,
    )
    logprobs: Alternatives | None = about(
        "Send with each token how likely it was, and so many of the likeliest tokens at its place.", default=None
    )
    stats: bool = about("Send per-stage figures with the end of the answer.", default=False)
    lease_s: Annotated[float, Number(1, 3600)] | None = about(
        "The request ends when its client does not renew it for so long; without, it lasts until it is answered.",
        default=None,
    )
    patience_s: Annotated[float, Number(0, limits.MAX_PATIENCE_S)] = about(
        "The request waits so long for what is missing, without progress, before it fails; 0: it fails at once.",
        default=limits.DEFAULT_PATIENCE_S,
    )
    answer_ids: TokenIds = about(
        "Submitted again, to an orchestrator that does not know the request: the answer's tokens so far.", default=()
    )
    answer_model: Name | None = about("Submitted again: the model that has made them.", default=None)
    connection: Name | None = about("Which of the client's connections reads the answer; random.", default=None)
    age_s: Seconds = about("Submitted again: how long ago it was submitted first.", default=0.0)
    ttft_s: Seconds | None = about(
        "Submitted again: how long after that the answer's first token came, if one has.", default=None
    )
    response: ResponseTo | None = about(
        "Where the whole answer goes, in one message, besides the stream; MQTT 5's response topic stands for it.",
        default=None,
    )
    expires_s: Seconds | None = about(
        "The request ends if its answer has not begun so long after it was submitted; MQTT 5's message expiry.",
        default=None,
    )


@message("request.renew")
@dataclass(frozen=True, kw_only=True, slots=True)
class RenewRequest:
    """The client still reads the answer."""

    request: RequestId = about("The request.")
    answer_tokens: Tokens = about("How many of the answer's tokens the client has.", default=0)
    repeat: bool = about(
        "Send what follows them once more, and the end: the client has missed something.", default=False
    )


@message("client.will")
@dataclass(frozen=True, kw_only=True, slots=True)
class ClientWill:
    """The client's connection is lost: its requests end, unless it is back and renews them within a second."""

    client: Name = about("Whose will it is.")
    connection: Name | None = about("Which of its connections: only requests that it has submitted end.", default=None)


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
    first_token: Tokens = about("How many tokens of the answer come before the piece.")
    first_character: Count = about("How many characters of the text come before it.")
    text: Verbatim = about("The piece; whole characters only.")
    token_ids: TokenIds = about("The tokens behind it.")
    logprobs: Annotated[tuple[TokenLogprobs, ...], Items(1_000_000)] | None = about(
        "How likely each of the tokens was, when asked for.", default=None
    )


@message("stream.end")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamEnd:
    """The answer is complete."""

    request: RequestId = about("The request.")
    finish_reason: FinishReason = about("Why it ended.")
    prompt_tokens: Tokens = about("Tokens of the prompt.")
    completion_tokens: Tokens = about("Tokens generated.")
    ttft_s: Seconds = about("From the first submission to the first token, seen at the orchestrator.")
    total_s: Seconds = about("From the first submission to the end.")
    stages: Annotated[tuple[StageTiming, ...], Items(limits.MAX_STAGES)] = about(
        "Per-stage figures when asked for.", default=()
    )
    text_tokens: Tokens = about("How many tokens the pieces have in all.", default=0)
    text_characters: Count = about("How many characters they have.", default=0)


@message("request.answer")
@dataclass(frozen=True, kw_only=True, slots=True)
class RequestAnswer:
    """A whole answer, for who has asked for it in one message."""

    request: RequestId = about("The request.")
    text: Verbatim = about("The answer.")
    finish_reason: FinishReason = about("Why it ended.")
    model: Name | None = about("The model that has computed it.", default=None)
    prompt_tokens: Tokens = about("Tokens of the prompt.")
    completion_tokens: Tokens = about("Tokens generated.")
    ttft_s: Seconds = about("From the first submission to the first token, seen at the orchestrator.")
    total_s: Seconds = about("From the first submission to the end.")


@message("stream.status")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamStatus:
    """What the answer waits for, or that it goes on. Sent when that changes."""

    request: RequestId = about("The request.")
    waits_for: Line = about("What is missing, for people; empty when the answer is being computed.", default="")
    model: Name | None = about("The model that computes it, once that is known.", default=None)
    tool_format: ToolFormat | None = about(
        "How the model writes tool calls, where tools were offered and it is known.", default=None
    )


@message("stream.error")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamError:
    """There will be no (more) answer."""

    request: RequestId = about("The request.")
    code: ErrorCode = about(
        "Why, for programs. No ends are unknown: the orchestrator has never heard of the request, or has forgotten it;"
        " and malformed: a message about it can't be read."
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
