"""Commands: the messages by which the orchestrator tells a node what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from schemas import limits
from schemas.contract import Items, Number, about
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.parts import (
    Alternatives,
    Basis,
    BlobRef,
    Bytes,
    Count,
    DraftModel,
    Epoch,
    HeldRequest,
    Index,
    KvLayer,
    KvTarget,
    Label,
    Line,
    Name,
    ProbePart,
    RequestId,
    Sampling,
    Seconds,
    StageRef,
    TokenId,
    TokenIds,
    TokenMask,
    Tokens,
    Url,
    WireDtype,
)
from schemas.registry import message


@message("command.register")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterAgain:
    """The orchestrator heard a heartbeat of a node it does not know, or wants to know whether a node is there."""

    reason: Line = about("Why it asks.", default="")


@message("command.refuse")
@dataclass(frozen=True, kw_only=True, slots=True)
class RefuseNode:
    """The node can't take part; it prints the reason and ends."""

    incarnation: Count = about("The incarnation that is refused; another one of the same name stays.")
    reason: Line = about("One line with what to do.")


@message("command.prepare")
@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSegment:
    """Load one stage of an epoch beside what runs now."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch to be.")
    stage: Index = about("This node's place in the ring.")
    ring: Annotated[tuple[StageRef, ...], Items(limits.MAX_STAGES, 1)] = about("All stages in order.")
    model: Name = about("The model's name.")
    graph: BlobRef = about("The segment's ONNX graph; its weights are the blobs below.")
    blobs: Annotated[tuple[BlobRef, ...], Items(limits.MAX_BLOBS)] = about("Weight blobs the graph refers to.")
    answer: BlobRef | None = about(
        "What the segment has to answer to a fixed input before it is used; null: it is not asked.", default=None
    )
    blob_urls: Annotated[tuple[Url, ...], Items(16, 1)] = about("Where blobs are served: URL plus '/' plus SHA-256.")
    kv_layers: Annotated[tuple[KvLayer, ...], Items(1024)] = about("KV caches this segment owns, in order.")
    width_in: Index = about("Values per position of the tensor that comes in; 0 for the first stage.")
    width_out: Index = about("Values per position of the tensor that goes out; 0 for the last stage.")
    vocab_size: Tokens = about("Number of token ids.")
    context_tokens: Tokens = about("Positions per slot.")
    slots: Annotated[int, Number(1, limits.MAX_SLOTS)] = about("Requests with a KV cache at the same time.")
    chunk_tokens: Annotated[int, Number(limits.MIN_CHUNK_TOKENS, limits.MAX_CHUNK_TOKENS)] = about(
        "Longest prefill chunk."
    )
    same_bits: bool = about(
        "Every position gets the same bits whatever run it is in; runs have dummies behind them for that, as many as"
        " the node's processor needs.",
        default=False,
    )
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    batches: Annotated[tuple[Annotated[int, Number(1, limits.MAX_BATCHES)], ...], Items(limits.MAX_SLOTS)] = about(
        "How many batches of requests go round the ring at once, for 1, 2, ... open requests, the same on all stages;"
        " beyond the last entry one for each node.",
        default=(),
    )
    basis: Basis | None = about("Where requests come from that are open already; None: it begins empty.", default=None)
    planned_bytes: Bytes = about("Memory the plan expects the node to need in all; a node without it refuses.")
    draft: DraftModel | None = about("Last stage: a model to guess with.", default=None)
    max_message_bytes: Bytes = about(
        "Longest payload that the broker passes on for all nodes of the ring.", default=MAX_PAYLOAD_BYTES
    )


@message("command.release")
@dataclass(frozen=True, kw_only=True, slots=True)
class ReleaseSegment:
    """Unload a prepared or active stage."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch to forget.")


@message("command.open")
@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRequest:
    """A request begins on this stage. Token ids go to the first stage, and to the last when a penalty needs them."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch whose stages serve the request.")
    stage: Index = about("The stage of the ring it is for: a node may have two, the first and the last.")
    request: RequestId = about("The request.")
    prompt_tokens: Tokens = about("Length of the prompt.")
    max_tokens: Tokens = about("Most tokens to generate.")
    prompt_ids: TokenIds | None = about(
        "For stages that need it: the prompt and, where a request goes on in a new epoch, the tokens generated so far.",
        default=None,
    )
    sampling: Sampling | None = about("For the last stage.", default=None)
    draft_tokens: Annotated[int, Number(0, limits.MAX_GUESSED_TOKENS)] = about(
        "Most tokens to guess in one run (first stage, and last, which then needs the prompt); 0 is off.", default=0
    )
    draft_windows: Annotated[int, Number(1, limits.MAX_GUESSED_WINDOWS)] = about(
        "Most runs with guesses that are on their way at once (last stage).", default=1
    )
    prefix_request: RequestId | None = about(
        "An earlier request whose KV cache begins as this prompt does.", default=None
    )
    prefix_tokens: Tokens = about("How many positions they share.", default=0)
    moved_tokens: Tokens = about(
        "Positions whose KV rows came along from the epoch's basis; where some are missing they are computed again.",
        default=0,
    )
    logprobs: Alternatives | None = about(
        "Last stage: publish with each token how likely it was, and so many of the likeliest at its place.",
        default=None,
    )
    has_grammar: bool = about(
        "Last stage: the answer is bound to a form; no token is chosen before command.allow says which may come.",
        default=False,
    )
    eos_ids: Annotated[tuple[TokenId, ...], Items(256)] = about("Tokens that end the answer; last stage.", default=())


@message("command.allow")
@dataclass(frozen=True, kw_only=True, slots=True)
class AllowTokens:
    """Which tokens may come next in an answer that is bound to a form, for the last stage, which waits for this."""

    request: RequestId = about("The request.")
    epoch: Epoch = about("The epoch whose last stage it is for.")
    position: Tokens = about("Of the first token that this is about; the tokens before it are known.")
    expected: Annotated[tuple[TokenId, ...], Items(limits.MAX_EXPECTED_TOKENS)] = about(
        "Tokens from there on that nothing else can come for, or that were guessed.", default=()
    )
    masks: Annotated[tuple[TokenMask, ...], Items(limits.MAX_EXPECTED_TOKENS + 1, 1)] = about(
        "What may come at each position, as long as the tokens before it are the expected ones."
    )


@message("command.close")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseRequest:
    """Free what a request holds. Also how a request is cancelled."""

    request: RequestId = about("The request.")


@message("command.keep_requests")
@dataclass(frozen=True, kw_only=True, slots=True)
class KeepRequests:
    """End all requests of an epoch but these: an orchestrator that has adopted its plan knows no others."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    requests: Annotated[tuple[RequestId, ...], Items(limits.MAX_SLOTS)] = about("Those that go on.", default=())


@message("command.resend")
@dataclass(frozen=True, kw_only=True, slots=True)
class ResendTokens:
    """The orchestrator missed tokens: the last stage publishes them again."""

    request: RequestId = about("The request.")
    position: Tokens = about("Position of the first token that is missing.")
    first_stage: bool = about(
        "Is it the first stage that is asked, which repeats what the ring owes it? Else it is the last.", default=False
    )


@message("command.probe")
@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeNode:
    """Measure yourself with the model's own units. A node with open requests refuses."""

    model: Name = about("The model's name.")
    fingerprint: Label = about("Equal for models whose units cost the same.")
    parts: Annotated[tuple[ProbePart, ...], Items(16, 1)] = about("What to measure, one after the other.")
    blob_urls: Annotated[tuple[Url, ...], Items(16, 1)] = about("Where blobs are served.")
    vocab_size: Tokens = about("Number of token ids.")
    width: Index = about("Values per position on the wire.")
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    same_bits: bool = about(
        "Every position gets the same bits whatever run it is in; runs have dummies behind them for that, as many as"
        " the node's processor needs.",
        default=False,
    )
    time_limit_s: Seconds = about("Compute no longer than this in all, loading left out.")


@message("command.copy_kv")
@dataclass(frozen=True, kw_only=True, slots=True)
class CopyKv:
    """Send the KV rows of all open requests to the nodes that take units over, and keep up while decoding goes on.

    The node answers with KvCopied when it has caught up.
    """

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    stage: Index = about("This node's stage in it, whose rows are wanted.")
    to_epoch: Epoch = about("The epoch to be, prepared by all.")
    targets: Annotated[tuple[KvTarget, ...], Items(limits.MAX_STAGES, 1)] = about("Who takes over what.")


@message("command.hold")
@dataclass(frozen=True, kw_only=True, slots=True)
class HoldRequests:
    """For stage 0: begin no new step. It answers with RequestsHeld once the ring owes it no token."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    limit_s: Seconds = about("Go on by itself after this time: the orchestrator may be gone.")


@message("command.go_on")
@dataclass(frozen=True, kw_only=True, slots=True)
class GoOn:
    """The move is given up: stage 0 goes on where it was held, sources stop copying."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")


@message("command.finish_kv")
@dataclass(frozen=True, kw_only=True, slots=True)
class FinishKv:
    """Stage 0 is held: send the last rows, and answer with KvCopied once they are all on their way."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    stage: Index = about("This node's stage in it.")
    requests: Annotated[tuple[HeldRequest, ...], Items(limits.MAX_SLOTS)] = about("How far to send each request.")


@message("command.keep")
@dataclass(frozen=True, kw_only=True, slots=True)
class KeepBlobs:
    """Standby units: fetch these blobs in the background and keep them. Replaces what was to be kept before."""

    pipeline: Name = about("The pipeline.")
    blobs: Annotated[tuple[BlobRef, ...], Items(limits.MAX_BLOBS)] = about("What to have on disk, besides what runs.")
    blob_urls: Annotated[tuple[Url, ...], Items(16, 1)] = about("Where blobs are served.")
