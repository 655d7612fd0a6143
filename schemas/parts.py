"""Parts of messages: annotated types, whose annotations are the limits, and objects inside messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits, names
from schemas.contract import Items, Number, Text, about

Name = Annotated[str, Text(pattern=f"^{names.PATTERN}$", min_length=1, max_length=names.MAX_LENGTH)]
RequestId = Annotated[str, Text(pattern="^[0-9a-f]{16}$", min_length=16, max_length=16)]
Sha256 = Annotated[str, Text(pattern=f"^{names.SHA256_PATTERN}$", min_length=64, max_length=64)]
Line = Annotated[str, Text(max_length=limits.MAX_LINE)]
Label = Annotated[str, Text(max_length=200)]
NodeLabel = Annotated[str, Text(max_length=64)]
"""What people call a node; its name is what it is."""
Prose = Annotated[str, Text(max_length=1_000_000)]
Verbatim = Annotated[str, Text(max_length=1_000_000, verbatim=True)]
"""What a model is given and what it answers."""
StopText = Annotated[str, Text(min_length=1, max_length=limits.MAX_STOP_CHARACTERS, verbatim=True)]
"""A text before which an answer ends."""
ToolName = Annotated[str, Text(pattern="^[A-Za-z0-9_.:-]+$", min_length=1, max_length=64)]
ToolText = Annotated[str, Text(max_length=limits.MAX_TOOL_CHARACTERS, verbatim=True)]
ToolFormat = Literal["tagged", "bracketed", "bare"]
"""How a model writes tool calls; see ``orchestrator.text.tool_calls``."""
Url = Annotated[str, Text(pattern="^https?://[!-~]+$", min_length=8, max_length=500)]
TopicText = Annotated[str, Text(pattern="^[A-Za-z0-9._/-]+$", min_length=1, max_length=400)]
HexText = Annotated[str, Text(pattern="^([0-9a-f]{2})*$", max_length=2 * limits.MAX_CORRELATION_BYTES)]
Bytes = Annotated[int, Number(0, 2**50)]
Count = Annotated[int, Number(0, 2**53)]
Index = Annotated[int, Number(0, 100_000)]
Tokens = Annotated[int, Number(0, limits.MAX_CONTEXT_TOKENS)]
TokenId = Annotated[int, Number(0, 2**31 - 1)]
TokenIds = Annotated[tuple[TokenId, ...], Items(1_000_000)]
Logprob = Annotated[float, Number(limits.LEAST_LOGPROB, 0)]
Alternatives = Annotated[int, Number(0, limits.MAX_ALTERNATIVES)]
MaskId = Annotated[str, Text(pattern="^[0-9a-f]{32}$", min_length=32, max_length=32)]
Base64 = Annotated[str, Text(pattern="^[A-Za-z0-9+/]+={0,2}$", min_length=4, max_length=limits.MAX_MASK_BYTES)]
Seconds = Annotated[float, Number(0, 1e9)]
Milliseconds = Annotated[float, Number(0, 1e12)]
Rate = Annotated[float, Number(0, 1e18)]
Percent = Annotated[float, Number(0, 100)]
Celsius = Annotated[float, Number(-100, 300)]
UnsignedInt32 = Annotated[int, Number(0, 2**32 - 1)]
EpochText = Annotated[str, Text(pattern="^[0-9]{1,10}-[0-9]{1,10}$", min_length=3, max_length=21)]
"""An epoch for people: its generation and its counter."""
WireDtype = Literal["fp32", "fp16", "int8"]
KvDtype = Literal["fp32", "fp16", "int8"]
RoundedKv = Literal["fp16", "int8"]
UnitKind = Literal["embed", "block", "head"]

PROBE_BATCH = 4
"""Requests that decode together where a node measures a batch."""
PROBE_CHUNK_TOKENS = 64
"""Positions of the prompt chunk that a node measures."""
PROBE_CONTEXT_TOKENS = 2 * PROBE_CHUNK_TOKENS
"""Positions of a text where a node measures."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Epoch:
    """Version of a plan; ordered. The generation grows with each orchestrator start, the counter with each plan."""

    generation: UnsignedInt32 = about("Grows with every start of the orchestrator.")
    counter: UnsignedInt32 = about("Grows with every plan of one generation.")

    def __str__(self) -> str:
        return f"{self.generation}-{self.counter}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseTo:
    """Where an answer is wanted, as MQTT 5 says it with a message's properties."""

    topic: TopicText = about("One of who asks: linguabus/v1/response/{client}/{label}.")
    correlation: HexText = about("Comes back with the answer, as MQTT 5's correlation data; hexadecimal.", default="")


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
class Basis:
    """The working epoch that a new one takes its requests and KV rows over from; see `schemas.handover`."""

    epoch: Epoch = about("The epoch in force.")
    ring: Annotated[tuple[StageRef, ...], Items(limits.MAX_STAGES, 1)] = about("Its stages in order.")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitsOnNode:
    """Which units a node has."""

    node: Name = about("The node.")
    start: Index = about("First unit; 0 is the embedding.")
    stop: Index = about("One past the last unit.")
    units: Label = about("Its units for people.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RingStage(UnitsOnNode):
    """Which units a node has at a position in the ring."""

    stage: Index = about("Position in the ring.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KvTarget:
    """Whom KV rows are copied to."""

    stage: Index = about("Stage of the new epoch.")
    node: Name = about("The node that runs it.")
    start: Index = about("First unit whose rows are wanted.")
    stop: Index = about("One past the last unit.")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRequest:
    """Where a request stands at a token boundary."""

    request: RequestId = about("The request.")
    tokens: Tokens = about("Prompt and answer as far as stage 0 knows them.")
    valid_tokens: Tokens = about("Positions that stage 0 has computed; no later stage computes more.")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldedState:
    """A state of one text in float32, into which a decoder block folds all positions."""

    name: Label = about("Last part of the names of its input and output: conv_state or recurrent_state.")
    shape: Annotated[tuple[Index, ...], Items(4, 1)] = about("Its dimensions, without the batch.")


@dataclass(frozen=True, kw_only=True, slots=True)
class KvLayer:
    """Shape of what one decoder block keeps: of each position a KV cache or a short convolution's input, or states."""

    layer: Index = about("Index of the decoder block in the whole model.")
    kv_heads: Index = about("Key/value heads.")
    key_dim: Index = about("Values of a key per head.")
    value_dim: Index = about("Values of a value per head.")
    conv_dim: Index = about("Values of a convolution's input; not 0 where there are no keys and values.", default=0)
    rounding: Label | None = about(
        "How keys and values are rounded: fp16, or what stands for the scales of int8; left out: they are not.",
        default=None,
    )
    states: Annotated[tuple[FoldedState, ...], Items(4)] = about(
        "What is kept of all positions together; then nothing is kept of each.", default=()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftModel:
    """A small model, whole, of the same tokenizer: the last stage's node guesses with it what follows."""

    model: Name = about("The small model's name.")
    graph: BlobRef = about("Its ONNX graph; its weights are the blobs below.")
    blobs: Annotated[tuple[BlobRef, ...], Items(limits.MAX_BLOBS)] = about("Weight blobs the graph refers to.")
    kv_layers: Annotated[tuple[KvLayer, ...], Items(1024)] = about("Its KV caches, in order.")
    vocab_size: Tokens = about("Number of token ids.")
    context_tokens: Tokens = about("Positions per slot; behind them it guesses nothing.")
    same_bits: bool = about("As the segment's.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the last stage chooses a token."""

    temperature: Annotated[float, Number(0, 100)] = about("0 is greedy.", default=0.0)
    top_k: Annotated[int, Number(0, 1_000_000)] = about("Keep the k likeliest tokens; 0 keeps all.", default=0)
    top_p: Annotated[float, Number(0, 1)] = about("Keep the smallest set of this probability.", default=1.0)
    seed: Annotated[int, Number(0, 2**53)] = about("Key of every draw of the request.", default=0)
    repetition_penalty: Annotated[float, Number(0.1, 10)] = about(
        "Divides positive and multiplies negative logits of tokens seen, in the prompt too; 1 is off.", default=1.0
    )
    min_p: Annotated[float, Number(0, 1)] = about(
        "Keep tokens of at least this share of the likeliest one's probability, at the temperature.", default=0.0
    )
    presence_penalty: Annotated[float, Number(-2, 2)] = about(
        "Subtracted from the logits of tokens that the answer has, its prompt left out; 0 is off.", default=0.0
    )
    frequency_penalty: Annotated[float, Number(-2, 2)] = about(
        "Subtracted from the logits of tokens once for each time that the answer has them; 0 is off.", default=0.0
    )

    @property
    def looks_back(self) -> bool:
        """Does the choice depend on the tokens before it?"""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """The form that an answer has to have."""

    kind: Literal["json_schema", "json_object", "regex"] = about(
        "A JSON document that a schema describes, any JSON object, or a text that a regular expression matches."
    )
    text: Annotated[str, Text(max_length=limits.MAX_GRAMMAR_CHARACTERS, verbatim=True)] = about(
        "The JSON schema, as JSON text, or the regular expression; nothing for json_object.", default=""
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMask:
    """The tokens that may come at a position."""

    id: MaskId | None = about(
        "Name of a set of tokens, see `schemas.token_mask`; null: only the token that is expected may come.",
        default=None,
    )
    data: Base64 | None = about("The set, where the stage may not have it: bits, deflated, in base64.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class LikelyToken:
    """A token that could have been chosen."""

    token_id: TokenId = about("The token.")
    text: Verbatim = about("Its text by itself; parts of characters are U+FFFD.")
    logprob: Logprob = about("Natural logarithm of its probability.")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """How likely the model found a token of the answer: by its own distribution, before temperature and penalties."""

    text: Verbatim = about("The token's text by itself; parts of characters are U+FFFD.")
    logprob: Logprob | None = about(
        "Natural logarithm of its probability; null: it can't be had again, after a restart of the orchestrator.",
        default=None,
    )
    top: Annotated[tuple[LikelyToken, ...], Items(limits.MAX_ALTERNATIVES)] = about(
        "The likeliest tokens at its place, the likeliest first.", default=()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that the model may ask to be called."""

    name: ToolName = about("Its name.")
    description: ToolText = about("What it does, for the model.", default="")
    parameters: ToolText = about("What it takes: the text of a JSON Schema, which is an object.", default="{}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A function that the model has asked to be called."""

    name: ToolName = about("Its name.")
    arguments: Verbatim = about("What it was given: the text of a JSON object.")
    id: Label | None = about("What the result refers to.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"] = about("Who speaks; tool: the result of a call.")
    content: Verbatim = about("What was said.")
    tool_calls: Annotated[tuple[ToolCall, ...], Items(limits.MAX_TOOLS)] = about(
        "Calls that the assistant asked for in this turn.", default=()
    )
    tool_call_id: Label | None = about("Of a tool's turn: the id of the call that it is the result of.", default=None)
    name: Label | None = about("Of a tool's turn: the function's name; of others: the speaker's.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMetrics:
    """How one stage is doing."""

    pipeline: Name = about("The stage's pipeline.")
    epoch: Epoch = about("The stage's epoch.")
    stage: Index = about("Position in the ring.")
    decode_s: Seconds | None = about("Smoothed compute time of a run of one position per row.", default=None)
    decode_rows: Rate = about("Smoothed number of rows of such a run.", default=0.0)
    queue: Count = about("Frames waiting.", default=0)
    busy_s: Seconds = about("Compute time of all runs since the stage was loaded.", default=0.0)
    positions: Count = about("Positions computed since the stage was loaded.", default=0)
    open_requests: Count = about("Requests with a KV slot.", default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTiming:
    """What one stage did for one request."""

    node: Name = about("The node.")
    stage: Index = about("Position in the ring.")
    prefill_s: Seconds = about("Compute time of the prompt.", default=0.0)
    decode_s: Seconds = about("Compute time of all decode steps.", default=0.0)
    decode_steps: Count = about("Decode steps run.", default=0)
    busy_s: Seconds = about("Its share of the compute time: each run's, divided by the rows in it.", default=0.0)
    positions: Count = about("Positions computed, repeats included.", default=0)
    frames_out: Count = about("Frames published.", default=0)
    bytes_out: Bytes = about("Payload bytes published.", default=0)
    decode_bytes_out: Bytes = about("Payload bytes published by decode steps.", default=0)
    frames_dropped: Count = about("Frames dropped by the position rule.", default=0)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitProfile:
    """What a node measured with one part. Times are medians of several runs, emulated speed included."""

    kind: UnitKind = about("Kind of its units.")
    units: Annotated[int, Number(1, 100_000)] = about("How many units of this kind it has.")
    decode_s: Seconds = about("One decode step of one request.")
    decode_spread_s: Seconds = about("From the quickest to the slowest of the middle half.")
    decode_batched_s: Seconds | None = about(f"Share of one request in a decode step of {PROBE_BATCH}.", default=None)
    prefill_s: Seconds = about(f"One position of a chunk of {PROBE_CHUNK_TOKENS}.")
    weight_bytes: Bytes = about("Size of its weights on disk.")
