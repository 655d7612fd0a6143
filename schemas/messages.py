"""Every JSON message on the bus, as frozen dataclasses whose annotations are the limits.

On the wire a message is a JSON object with two members more than its dataclass: ``type`` (the name given to
``@message``) and ``v`` (the schema version, 1). ``json/*.v1.json`` holds the JSON Schema of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from schemas import contract
from schemas.contract import FreeForm, Items, Number, Text, about
from schemas.errors import MessageError

MAX_MESSAGE_BYTES = 1_500_000
"""Longest JSON message taken from the bus; a prompt of 200,000 tokens fits."""

SCHEMA_VERSION = 1

Name = Annotated[str, Text(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", min_length=1, max_length=64)]
RequestId = Annotated[str, Text(pattern="^[0-9a-f]{16}$", min_length=16, max_length=16)]
Sha256 = Annotated[str, Text(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
Line = Annotated[str, Text(max_length=1_000)]
Label = Annotated[str, Text(max_length=200)]
Prose = Annotated[str, Text(max_length=1_000_000)]
Url = Annotated[str, Text(pattern="^https?://[!-~]+$", min_length=8, max_length=500)]
Bytes = Annotated[int, Number(0, 2**50)]
Count = Annotated[int, Number(0, 2**53)]
Index = Annotated[int, Number(0, 100_000)]
Tokens = Annotated[int, Number(0, 10_000_000)]
TokenId = Annotated[int, Number(0, 2**31 - 1)]
TokenIds = Annotated[tuple[TokenId, ...], Items(1_000_000)]
Seconds = Annotated[float, Number(0, 1e9)]
Rate = Annotated[float, Number(0, 1e18)]
Percent = Annotated[float, Number(0, 100)]
Celsius = Annotated[float, Number(-100, 300)]
UnsignedInt32 = Annotated[int, Number(0, 2**32 - 1)]
WireDtype = Literal["fp32", "fp16", "int8"]
UnitKind = Literal["embed", "block", "head"]

_T = TypeVar("_T")
MESSAGES: dict[str, type] = {}
_NAMES: dict[type, str] = {}


def message(name: str) -> Callable[[type[_T]], type[_T]]:
    """Register a dataclass as the message ``name``."""

    def register(cls: type[_T]) -> type[_T]:
        MESSAGES[name] = cls
        _NAMES[cls] = name
        return cls

    return register


# --- parts of messages --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Epoch:
    """Version of a plan; ordered. The generation grows with each orchestrator start, the counter with each plan."""

    generation: UnsignedInt32 = about("Grows with every start of the orchestrator.")
    counter: UnsignedInt32 = about("Grows with every plan of one generation.")

    def __str__(self) -> str:
        return f"{self.generation}-{self.counter}"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobRef:
    """One content-addressed file."""

    sha256: Sha256 = about("SHA-256 of the content, and the blob's name.")
    size_bytes: Bytes = about("Length of the content.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRef:
    """One stage of a ring: a node and the half-open range of units it runs."""

    node: Name = about("The node that runs this stage.")
    start: Index = about("First unit; 0 is the embedding.")
    stop: Index = about("One past the last unit.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KvLayer:
    """Shape of one decoder block's KV cache."""

    layer: Index = about("Index of the decoder block in the whole model.")
    kv_heads: Index = about("Key/value heads.")
    key_dim: Index = about("Values of a key per head.")
    value_dim: Index = about("Values of a value per head.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the last stage chooses a token."""

    temperature: Annotated[float, Number(0, 100)] = about("0 is greedy.", default=0.0)
    top_k: Annotated[int, Number(0, 1_000_000)] = about("Keep the k likeliest tokens; 0 keeps all.", default=0)
    top_p: Annotated[float, Number(0, 1)] = about("Keep the smallest set of this probability.", default=1.0)
    seed: Annotated[int, Number(0, 2**53)] = about("Key of every draw of the request.", default=0)
    repetition_penalty: Annotated[float, Number(0.1, 10)] = about(
        "Divides positive and multiplies negative logits of tokens seen; 1 is off.", default=1.0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"] = about("Who speaks.")
    content: Prose = about("What was said.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMetrics:
    """How one stage is doing."""

    pipeline: Name = about("The stage's pipeline.")
    epoch: Epoch = about("The stage's epoch.")
    stage: Index = about("Position in the ring.")
    decode_s: Seconds | None = about("Smoothed compute time of a run of one position per row.", default=None)
    decode_rows: Rate = about("Smoothed number of rows of such a run.", default=0.0)
    queue: Count = about("Frames waiting.", default=0)
    open_requests: Count = about("Requests with a KV slot.", default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTiming:
    """What one stage did for one request."""

    node: Name = about("The node.")
    stage: Index = about("Position in the ring.")
    prefill_s: Seconds = about("Compute time of the prompt.", default=0.0)
    decode_s: Seconds = about("Compute time of all decode steps.", default=0.0)
    decode_steps: Count = about("Decode steps run.", default=0)
    positions: Count = about("Positions computed, repeats included.", default=0)
    frames_out: Count = about("Frames published.", default=0)
    bytes_out: Bytes = about("Payload bytes published.", default=0)
    decode_bytes_out: Bytes = about("Payload bytes published by decode steps.", default=0)
    frames_dropped: Count = about("Frames dropped by the position rule.", default=0)


# --- nodes --------------------------------------------------------------------------------------------------------


@message("node.birth")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeBirth:
    """A node says who it is and what it can do. Retained."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Grows with every start of the node (milliseconds since 1970).")
    protocol: Index = about("Protocol version the node speaks.")
    package_version: Label = about("Version of the installed distribution.")
    memory_bytes: Bytes = about("Memory the node may use in all, its own overhead included.")
    overhead_bytes: Bytes = about("Resident memory of the node with no segment loaded.")
    storage_bytes: Bytes = about("Room for blobs.")
    threads: Index = about("Compute threads of the node.")
    speed_flops: Rate = about("Measured decode-like speed in multiply-adds x 2 per second, emulation included.")
    hop_s: Seconds = about("Measured time of a message through the broker and back to the node.")
    platform: Label = about("Operating system and machine.", default="")
    python: Label = about("Python version.", default="")
    onnxruntime: Label = about("ONNX Runtime version.", default="")
    emulated_speed: Annotated[float, Number(0, 1)] = about("Relative speed the node pretends to have.", default=1.0)


@message("node.status")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """Is the node there? Retained; ``online: false`` is the node's will."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Which start of the node this is about.")
    online: bool = about("False when the node went away.")
    reason: Line = about("Why it went away.", default="")


@message("node.heartbeat")
@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """Once a second: how the node is doing."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Which start of the node this is.")
    uptime_s: Seconds = about("Since the node started.")
    rss_bytes: Bytes = about("Resident memory now.")
    peak_rss_bytes: Bytes = about("Largest resident memory since start.")
    available_bytes: Bytes = about("Memory the system could still give.")
    blob_bytes: Bytes = about("Blobs on disk.")
    cpu_percent: Annotated[float, Number(0, 100_000)] | None = about("CPU use of the process.", default=None)
    battery_percent: Percent | None = about("Charge, where there is a battery.", default=None)
    charging: bool | None = about("On a charger, where there is a battery.", default=None)
    temperature_c: Celsius | None = about("Hottest sensor that can be read.", default=None)
    stages: Annotated[tuple[StageMetrics, ...], Items(64)] = about("One entry per active stage.", default=())
    frames_rejected: Count = about("Frames that were malformed.", default=0)
    frames_dropped: Count = about("Frames of another epoch, sender, attempt or position.", default=0)
    reconnects: Count = about("Reconnections to the broker.", default=0)


# --- commands to a node and its replies ---------------------------------------------------------------------------


@message("command.register")
@dataclass(frozen=True, kw_only=True, slots=True)
class RegisterAgain:
    """The orchestrator heard a heartbeat of a node it does not know."""

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
    ring: Annotated[tuple[StageRef, ...], Items(256, 1)] = about("All stages in order.")
    model: Name = about("The model's name.")
    graph: BlobRef = about("The segment's ONNX graph; its weights are the blobs below.")
    blobs: Annotated[tuple[BlobRef, ...], Items(4096)] = about("Weight blobs the graph refers to.")
    blob_urls: Annotated[tuple[Url, ...], Items(16, 1)] = about("Where blobs are served: URL plus '/' plus SHA-256.")
    kv_layers: Annotated[tuple[KvLayer, ...], Items(1024)] = about("KV caches this segment owns, in order.")
    width_in: Index = about("Values per position of the tensor that comes in; 0 for the first stage.")
    width_out: Index = about("Values per position of the tensor that goes out; 0 for the last stage.")
    vocab_size: Tokens = about("Number of token ids.")
    context_tokens: Tokens = about("Positions per slot.")
    slots: Annotated[int, Number(1, 1024)] = about("Requests with a KV cache at the same time.")
    chunk_tokens: Annotated[int, Number(2, 4096)] = about("Longest prefill chunk.")
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    planned_bytes: Bytes = about("Memory the plan expects the node to need in all; a node without it refuses.")


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
    draft_tokens: Annotated[int, Number(0, 32)] = about(
        "Most tokens to guess per round trip (last stage, which then needs the prompt); 0 is off.", default=0
    )
    prefix_request: RequestId | None = about(
        "An earlier request whose KV cache begins as this prompt does.", default=None
    )
    prefix_tokens: Tokens = about("How many positions they share.", default=0)
    eos_ids: Annotated[tuple[TokenId, ...], Items(256)] = about("Tokens that end the answer; last stage.", default=())


@message("command.close")
@dataclass(frozen=True, kw_only=True, slots=True)
class CloseRequest:
    """Free what a request holds. Also how a request is cancelled."""

    request: RequestId = about("The request.")


@message("command.resend")
@dataclass(frozen=True, kw_only=True, slots=True)
class ResendTokens:
    """The orchestrator missed tokens: the last stage publishes them again."""

    request: RequestId = about("The request.")
    position: Tokens = about("Position of the first token that is missing.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbePart:
    """A small segment of the model that a node measures itself with."""

    kind: UnitKind = about("Kind of its units.")
    units: Annotated[int, Number(1, 100_000)] = about("How many units of this kind it has.")
    graph: BlobRef = about("The segment's ONNX graph.")
    blobs: Annotated[tuple[BlobRef, ...], Items(256)] = about("Weight blobs the graph refers to.")
    kv_layers: Annotated[tuple[KvLayer, ...], Items(1024)] = about("KV caches of its blocks, in order.")
    width_in: Index = about("Values per position of the tensor that comes in; 0 for the embedding.")
    width_out: Index = about("Values per position of the tensor that goes out; 0 for the head.")


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
    time_limit_s: Seconds = about("Compute no longer than this in all, loading left out.")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitProfile:
    """What a node measured with one part. Times are medians of several runs, emulated speed included."""

    kind: UnitKind = about("Kind of its units.")
    units: Annotated[int, Number(1, 100_000)] = about("How many units of this kind it has.")
    decode_s: Seconds = about("One decode step of one request.")
    decode_spread_s: Seconds = about("From the quickest to the slowest of the middle half.")
    decode_batched_s: Seconds | None = about("Share of one request in a decode step of four.", default=None)
    prefill_s: Seconds = about("One position of a chunk of 64.")
    resident_bytes: Bytes = about("Resident memory that opening and running it took.")
    weight_bytes: Bytes = about("Size of its weights on disk.")


@message("reply.profile")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeProfile:
    """Answer to command.probe."""

    node: Name = about("The node.")
    incarnation: Count = about("Which start of the node this is.")
    fingerprint: Label = about("The command's.")
    failure: Line = about("Why there are no figures; empty when there are.", default="")
    units: Annotated[tuple[UnitProfile, ...], Items(16)] = about("One entry per part.", default=())
    hop_s: Seconds = about("One decode activation: encoded, through the broker and decoded.", default=0.0)
    hop_spread_s: Seconds = about("From the quickest to the slowest of the middle half.", default=0.0)
    hop_busy_s: Seconds = about("Share of it in which the node computes.", default=0.0)
    link_bytes_per_s: Rate = about("Rate of large activations through the broker; 0 is unknown.", default=0.0)
    available_bytes: Bytes = about("Memory the system could still give.", default=0)
    storage_bytes: Bytes = about("Room for blobs.", default=0)
    took_s: Seconds = about("From the command to this answer.", default=0.0)


@message("reply.progress")
@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareProgress:
    """How far the download of a segment is."""

    node: Name = about("The node.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch.")
    stage: Index = about("Place in the ring.")
    done_bytes: Bytes = about("Bytes on disk and verified.")
    total_bytes: Bytes = about("Bytes needed.")


@message("reply.ready")
@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentReady:
    """The stage is loaded and its topics are subscribed."""

    node: Name = about("The node.")
    incarnation: Count = about("Which start of the node this is.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch.")
    stage: Index = about("Place in the ring.")
    rss_bytes: Bytes = about("Resident memory with the segment loaded.")
    peak_rss_bytes: Bytes = about("Largest resident memory so far.")
    downloaded_bytes: Bytes = about("Bytes fetched for it; the rest was in the cache.")
    load_s: Seconds = about("Time from command to ready.")


@message("reply.failed")
@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFailed:
    """The stage can't be loaded."""

    node: Name = about("The node.")
    incarnation: Count = about("Which start of the node this is.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch.")
    reason: Line = about("One line that says why.")


@message("reply.closed")
@dataclass(frozen=True, kw_only=True, slots=True)
class RequestClosed:
    """A stage closed a request; what it did for it."""

    request: RequestId = about("The request.")
    timing: StageTiming = about("The stage's share of the work.")


@message("reply.request_failed")
@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFailed:
    """A stage can't go on with a request."""

    node: Name = about("The node.")
    epoch: Epoch = about("The epoch of the stage: a request that has moved on to another one is not concerned.")
    request: RequestId = about("The request.")
    code: Literal["busy", "too_long", "no_progress", "not_finite", "internal"] = about("Why, for programs.")
    reason: Line = about("Why, for people.")


# --- the plan -----------------------------------------------------------------------------------------------------


@message("plan")
@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The plan in force. Retained; publishing it commits the epoch."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The plan's epoch.")
    model: Name = about("The model's name.")
    context_tokens: Tokens = about("Positions per request.")
    slots: Annotated[int, Number(1, 1024)] = about("Requests served at the same time.")
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    ring: Annotated[tuple[StageRef, ...], Items(256)] = about("All stages in order; empty when the pipeline is down.")


# --- requests -----------------------------------------------------------------------------------------------------


@message("request.submit")
@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """A client asks a question. Either ``messages`` (the chat template is applied) or ``prompt`` (it is not)."""

    client: Name = about("Who asks; answers go to this client's stream topic.")
    request: RequestId = about("Chosen by the client, random.")
    pipeline: Name = about("The pipeline to ask.", default="main")
    messages: Annotated[tuple[ChatMessage, ...], Items(10_000)] = about("The conversation so far.", default=())
    prompt: Prose | None = about("Raw text instead of a conversation.", default=None)
    max_tokens: Annotated[int, Number(1, 1_000_000)] = about("Most tokens to generate.", default=256)
    sampling: Sampling = about("How tokens are chosen.", default=Sampling())
    stats: bool = about("Send per-stage figures with the end of the answer.", default=False)


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
    stages: Annotated[tuple[StageTiming, ...], Items(256)] = about("Per-stage figures when asked for.", default=())


@message("stream.error")
@dataclass(frozen=True, kw_only=True, slots=True)
class StreamError:
    """There will be no (more) answer."""

    request: RequestId = about("The request.")
    code: Literal["no_model", "no_nodes", "no_memory", "not_ready", "too_long", "busy", "bad_request", "failed"] = (
        about("Why, for programs.")
    )
    reason: Line = about("One line that says what to do.")


# --- control (what the CLI asks of a running orchestrator) --------------------------------------------------------


@message("control.request")
@dataclass(frozen=True, kw_only=True, slots=True)
class ControlRequest:
    """An operator's command."""

    client: Name = about("Who asks.")
    request: RequestId = about("Chosen by the client, random.")
    operation: Name = about("What to do: nodes, plan, preview, apply, history, use_model, ...")
    arguments: Annotated[dict[str, Any], FreeForm(64)] = about("Arguments; checked by the operation.")


@message("control.reply")
@dataclass(frozen=True, kw_only=True, slots=True)
class ControlReply:
    """The answer to an operator's command."""

    request: RequestId = about("The request.")
    ok: bool = about("Did it work?")
    reason: Line = about("Why not, in one line that says what to do.", default="")
    result: Annotated[dict[str, Any], FreeForm(10_000)] = about("What was asked for.", default_factory=dict)


# --- bytes --------------------------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """The message as UTF-8 JSON.

    Raises:
        MessageError: it would be too long, or holds NaN, an infinity or a lone surrogate; limits are not checked.
    """
    document = {"type": _NAMES[type(value)], "v": SCHEMA_VERSION, **contract.dump(value)}
    try:
        payload = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except ValueError as error:
        raise MessageError(f"{document['type']} can't be sent as JSON: {str(error)!a}") from None
    _check_size(payload)
    return payload


def decode(payload: bytes, *expected: type[_T]) -> _T:
    """Parse and validate a message that must be of one of the ``expected`` types.

    Raises:
        MessageError: not JSON, too long, another type or version, or a member outside its limits.
    """
    _check_size(payload)
    try:
        # Decoded here because json.loads would also guess UTF-16, UTF-32 and a byte order mark.
        document = json.loads(str(payload, "utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MessageError("message: must be an object")
    name, version = document.pop("type", None), document.pop("v", None)
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise MessageError(f"v: this version reads {SCHEMA_VERSION}, the message has {_short(version)}")
    cls = MESSAGES.get(name) if isinstance(name, str) else None
    if cls is None or cls not in expected:
        raise MessageError(f"type: {_short(name)} is not expected here")
    loaded: _T = contract.load(cls, document)
    return loaded


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MessageError(f"message of {len(payload)} bytes, allowed are {MAX_MESSAGE_BYTES}")


def _short(value: object) -> str:
    """``value`` for an error message: one short line, whatever the network sent."""
    if value is None or isinstance(value, str | int | float):
        return ascii(value)[:64]
    return f"an {'object' if isinstance(value, dict) else 'array'}"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
