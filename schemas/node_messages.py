"""What nodes say about themselves, and the plan they follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from schemas import limits
from schemas.contract import Items, Number, about
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.parts import (
    Bytes,
    Celsius,
    Count,
    Epoch,
    Index,
    Label,
    Line,
    Name,
    Percent,
    Rate,
    Seconds,
    StageMetrics,
    StageRef,
    Tokens,
    WireDtype,
)
from schemas.registry import message


@message("node.birth")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeBirth:
    """A node says who it is and what it can do. Retained."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Tells the starts of the node apart; drawn at random.")
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
    memory_is_limited: bool = about("Is it the node's owner who set the memory it may use?", default=False)
    max_message_bytes: Bytes = about(
        "Longest payload that the broker passes on for this node, as far as it says or was found.",
        default=MAX_PAYLOAD_BYTES,
    )


@message("node.status")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """Is the node there? Retained; ``online: false`` is the node's will."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Which start of the node this is about.")
    online: bool = about("False when the node went away.")
    reason: Line = about("Why it went away, or wants to.", default="")
    leaving: bool = about(
        "Online: its layers should go to others, it ends once it has none. Offline: it ended of its own accord.",
        default=False,
    )
    resting: bool = about(
        "Online: its layers should go to others, and it takes none until it says otherwise.", default=False
    )


@message("node.heartbeat")
@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """How the node is doing: once a second while anything happens, twice while requests are open, every few seconds
    while nothing does, and before it computes for long."""

    node: Name = about("The node's name.")
    incarnation: Count = about("Which start of the node this is.")
    uptime_s: Seconds = about("Since the node started.")
    rss_bytes: Bytes = about("Resident memory now.")
    peak_rss_bytes: Bytes = about("Its largest since the node started, last released a stage or measured itself.")
    available_bytes: Bytes = about("Memory that the system, or a control group that has less, could still give.")
    memory_stalled_percent: Percent | None = about(
        "Of the last ten seconds, when all work waited for memory, where the kernel tells.", default=None
    )
    blob_bytes: Bytes = about("Blobs on disk.")
    standby_bytes: Bytes = about("Those of command.keep among them.", default=0)
    cpu_percent: Annotated[float, Number(0, 100_000)] | None = about("CPU use of the process.", default=None)
    battery_percent: Percent | None = about("Charge, where there is a battery.", default=None)
    charging: bool | None = about("On a charger, where there is a battery.", default=None)
    temperature_c: Celsius | None = about("Hottest sensor that can be read.", default=None)
    battery_temperature_c: Celsius | None = about("The battery's own, where it says so.", default=None)
    rtt_s: Seconds | None = about("Smoothed time of a small message to the broker and back.", default=None)
    stages: Annotated[tuple[StageMetrics, ...], Items(64)] = about("One entry per active stage.", default=())
    frames_rejected: Count = about("Frames that were malformed.", default=0)
    frames_dropped: Count = about("Frames of another epoch, sender, attempt or position.", default=0)
    reconnects: Count = about("Reconnections to the broker.", default=0)
    busy_s: Seconds = about("The node may now compute, and say nothing, for so long; 0: it does not.", default=0.0)
    next_s: Seconds = about("The next one comes after so long, unless something happens before.", default=1.0)
    sent_bytes: Bytes = about("Sent since the node started, all headers included.", default=0)
    received_bytes: Bytes = about("Received since then, blobs included.", default=0)
    tokens: Count = about("Tokens of answers that it had a part in since then.", default=0)


@message("plan")
@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The plan in force. Retained; publishing it commits the epoch."""

    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The plan's epoch.")
    model: Name = about("The model's name.")
    context_tokens: Tokens = about("Positions per request.")
    slots: Annotated[int, Number(1, limits.MAX_SLOTS)] = about("Requests served at the same time.")
    wire_dtype: WireDtype = about("Type of hidden states on the wire.")
    ring: Annotated[tuple[StageRef, ...], Items(limits.MAX_STAGES)] = about(
        "All stages in order; empty when the pipeline is down."
    )
    starts: Annotated[tuple[Count, ...], Items(limits.MAX_STAGES)] = about(
        "The incarnation of each stage's node that the plan counts on.", default=()
    )
    chunk_tokens: Tokens = about("Most tokens of a prompt in one run.", default=0)
    batches: Annotated[tuple[Count, ...], Items(limits.MAX_SLOTS)] = about(
        "Batches that go round at once, for 1, 2, ... open requests.", default=()
    )
    max_message_bytes: Bytes = about("Longest payload that the ring was made for.", default=MAX_PAYLOAD_BYTES)
    kv_rounding: Label | None = about(
        "How keys and values are rounded: fp16, or what stands for the scales of int8; left out: they are not.",
        default=None,
    )
    draft: Name | None = about("The model that the last stage's node guesses with; left out: none.", default=None)
