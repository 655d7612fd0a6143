"""What operators are shown of nodes, pipelines, decisions and requests: the parts of answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Entries, Items, Number, about
from schemas.parts import (
    Bytes,
    Celsius,
    Count,
    EpochText,
    Index,
    Label,
    Milliseconds,
    Name,
    NodeLabel,
    Percent,
    Prose,
    Rate,
    RingStage,
    Seconds,
    StageRef,
)
from schemas.plan_views import MovesView, MoveUnderWay

Change = Annotated[float, Number(-1e12, 1e12)]
"""May be negative."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldStage:
    """A stage that a node holds."""

    pipeline: Name = about("The stage's pipeline.")
    epoch: EpochText = about("The stage's epoch.")
    stage: Index = about("Position in the ring.")


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """One node: what it said of itself when it came, and in its last heartbeat (null before the first one)."""

    node: Name = about("The node's name.")
    state: Literal["online", "silent", "offline", "refused"] = about("Is it there?")
    reason: Prose = about("Why it is refused or offline; else empty.")
    heard_s_ago: Seconds = about("Since anything was heard of it.")
    incarnation: Count = about("Which start of the node this is.")
    package_version: Label = about("Version of its linguabus.")
    platform: Label = about("Operating system and machine.")
    python: Label = about("Python version.")
    onnxruntime: Label = about("ONNX Runtime version.")
    threads: Index = about("Compute threads.")
    memory_bytes: Bytes = about("Memory it may use in all, its own overhead included.")
    overhead_bytes: Bytes = about("Resident memory with no segment loaded.")
    storage_bytes: Bytes = about("Room for blobs.")
    speed_flops: Rate = about("Multiply-adds x 2 per second, measured when it came.")
    hop_ms: Milliseconds = about("A message through the broker and back, measured when it came.")
    max_message_bytes: Bytes = about("The longest payload that the broker passes on from and to it.")
    uptime_s: Seconds | None = about("Since it started.")
    rss_bytes: Bytes | None = about("Resident memory now.")
    peak_rss_bytes: Bytes | None = about("Its largest since it started, last released a stage or measured itself.")
    available_bytes: Bytes | None = about("Memory that its system could still give.")
    blob_bytes: Bytes | None = about("Blobs on disk.")
    standby_bytes: Bytes | None = about("Blobs of standby units among them.")
    cpu_percent: Annotated[float, Number(0, 100_000)] | None = about("CPU use of the process.")
    battery_percent: Percent | None = about("Charge, where there is a battery.")
    charging: bool | None = about("On a charger, where there is a battery.")
    battery_serving_percent_per_hour: Change | None = about(
        "How the charge changes while requests are open, once that is known."
    )
    battery_idle_percent_per_hour: Change | None = about("How it changes while none are, once that is known.")
    temperature_c: Celsius | None = about("Hottest sensor that can be read.")
    battery_temperature_c: Celsius | None = about("The battery's own.")
    cost_factor: Annotated[float, Number(0, 1e6)] = about("What its times count as in plans; above 1: to be spared.")
    rtt_ms: Milliseconds | None = about("Smoothed time of a small message to the broker and back.")
    leaving: Prose = about("Why it wants to end; else empty.")
    flags: Annotated[tuple[Prose, ...], Items(100)] = about("Why its numbers are not believed; empty when they are.")
    stages: Annotated[tuple[HeldStage, ...], Items(64)] = about("Stages it holds.")
    frames_rejected: Count | None = about("Frames that were malformed.")
    frames_dropped: Count | None = about("Frames of another epoch, sender, attempt or position.")
    reconnects: Count | None = about("Reconnections to the broker.")
    sent_bytes: Bytes | None = about("Sent since it started, all headers included.")
    received_bytes: Bytes | None = about("Received since then, blobs included.")
    tokens: Count | None = about("Tokens of answers that it had a part in since then.")
    drained: Prose = about("Why no new plan may use it; empty when one may.")
    label: NodeLabel | None = about("What people call it, where that is not its name.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchProgress:
    """How far a node is with fetching its part of a plan."""

    done_bytes: Bytes = about("What is there.")
    total_bytes: Bytes = about("What is wanted.")


ProgressOfNodes = Annotated[dict[Name, FetchProgress], Entries(10_000)]


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineStatus:
    """How one pipeline is."""

    pipeline: Name = about("The pipeline.")
    state: Label = about("In a word or two.")
    model: Name | None = about("The model it serves.")
    draft: Name | None = about("The model that the last stage's node guesses with; left out: none.", default=None)
    epoch: EpochText | None = about("The plan in force.")
    nodes: Annotated[tuple[Name, ...], Items(limits.MAX_STAGES)] = about("Nodes of the plan in force.")
    open_requests: Count = about("Requests that are being answered.")
    queued_requests: Count = about("Requests that wait.")
    moves: MovesView = about("Live moves.")
    predicted_tokens_per_s: Rate | None = about("Of one request.")
    predicted_tokens_per_s_many: Rate | None = about("Over many requests.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StageAtWork(RingStage):
    """One stage as predicted and as its node sees it; null as long as the node said nothing of it."""

    predicted_ms: Milliseconds = about("A decode step as predicted.")
    step_ms: Milliseconds | None = about("A decode step as observed.")
    rows: Rate | None = about("Requests in such a step, on average.")
    queue: Count | None = about("Frames that wait.")
    open_requests: Count | None = about("Requests with a KV slot.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineAtWork:
    """One pipeline at this moment."""

    pipeline: Name = about("The pipeline.")
    state: Label = about("In a word or two.")
    reason: Prose = about("Why the plan stays or, without one, why there is none.")
    model: Name | None = about("The model it serves.")
    epoch: EpochText | None = about("The plan in force.")
    predicted_tokens_per_s: Rate | None = about("Of one request.")
    predicted_tokens_per_s_many: Rate | None = about("Over many requests.")
    open_requests: Count = about("Requests that are being answered.")
    queued_requests: Count = about("Requests that wait.")
    slots: Annotated[int, Number(1, limits.MAX_SLOTS)] | None = about("Requests that can be answered at once.")
    stages: Annotated[tuple[StageAtWork, ...], Items(limits.MAX_STAGES)] = about("The ring.")
    progress: ProgressOfNodes = about("Nodes that fetch their part of the next plan.")
    move: MoveUnderWay | None = about("The live move under way.")
    tokens_per_s: Rate = about("Generated over the last seconds, over all its requests.")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionView:
    """What was decided about a plan that was found or a speed that was observed; equal ones in a row are one."""

    verdict: Literal["stay", "ask", "move"] = about("Keep the plan, ask the planner, or replace the plan.")
    reason: Prose = about("Why.")
    times: Count = about("How often in a row.")
    gain: Change = about("Share of the time per token that a move would save.")
    saved_s: Change = about("What a move would save over the work that is expected.")
    stages: Annotated[tuple[StageRef, ...], Items(limits.MAX_STAGES)] = about("Where to move.")
    first_s_ago: Seconds = about("Since the first of them.")
    last_s_ago: Seconds = about("Since the last of them.")
    cost_s: Change | None = about("What the move would cost; null: open requests can't be moved there.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineDecisions:
    """The decisions about one pipeline."""

    pipeline: Name = about("The pipeline.")
    epoch: EpochText | None = about("The plan in force.")
    stays: Prose = about("Why the last attempt to replace the plan came to nothing; else empty.")
    decisions: Annotated[tuple[DecisionView, ...], Items(1_000)] = about("The newest, the oldest of them first.")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryView:
    """Something that happened to a request, and what was decided on it."""

    after_s: Seconds = about("Since the request came.")
    cause: Prose = about("What happened.")
    decisions: Annotated[tuple[Prose, ...], Items(1_000)] = about("What followed from it.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileView:
    """The figures that plans of a node rest on. What it did not measure itself is left out."""

    node: Name = about("The node.")
    measured: bool = about("Did it measure itself with the model? Else its reported speed is used.")
    hop_ms: Milliseconds = about("A message through the broker and back.")
    age_s: Seconds | None = about("Since it measured.", default=None)
    block_ms: Milliseconds | None = about("A decode step of one block.", default=None)
    block_spread_ms: Milliseconds | None = about("Width of the middle half of its runs.", default=None)
    hop_spread_ms: Milliseconds | None = about("Width of the middle half of its echoes.", default=None)
    drift: Annotated[float, Number(0, 1e9)] | None = about("Observed times over measured ones.", default=None)
