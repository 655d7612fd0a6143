"""Replies of nodes to the orchestrator's commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from schemas import limits
from schemas.contract import Items, about
from schemas.parts import (
    Bytes,
    Count,
    Epoch,
    HeldRequest,
    Index,
    Label,
    Line,
    Name,
    Rate,
    RequestId,
    Seconds,
    StageTiming,
    Tokens,
    UnitProfile,
)
from schemas.registry import message

LoadFailureCode = Literal["wrong_answers", "unusable", "no_files", "no_room", "refused", "internal"]
"""Why a stage can't be loaded: it computes what is wrong, ONNX Runtime can't run it, its files or the room for them are
not to be had, the command asks for what the node can't do, or something else."""
RequestFailureCode = Literal["busy", "too_long", "no_progress", "not_finite", "bad_input", "cannot_run", "internal"]
"""Why a stage can't go on with a request. not_finite: what the node computed is NaN or infinite; bad_input: what it was
sent is; cannot_run: ONNX Runtime can't compute the step."""


@message("reply.profile")
@dataclass(frozen=True, kw_only=True, slots=True)
class NodeProfile:
    """Answer to command.probe."""

    node: Name = about("The node.")
    incarnation: Count = about("Which start of the node this is.")
    fingerprint: Label = about("The command's.")
    failure: Line = about("Why there are no figures; empty when there are.", default="")
    code: LoadFailureCode = about(
        "The same for programs; unusable: it can't run the model's units.", default="internal"
    )
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
    peak_rss_bytes: Bytes = about("Its largest since the node started, last released a stage or measured itself.")
    downloaded_bytes: Bytes = about("Bytes fetched for it; the rest was in the cache.")
    load_s: Seconds = about("Time from command to ready.")
    draft_failure: Line = about("Why its draft model can't be used; empty where it can, or there is none.", default="")


@message("reply.failed")
@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFailed:
    """The stage can't be loaded, or one that was loaded computes what is wrong and answers nothing more."""

    node: Name = about("The node.")
    incarnation: Count = about("Which start of the node this is.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch.")
    code: LoadFailureCode = about("Why, for programs.", default="internal")
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
    code: RequestFailureCode = about("Why, for programs.")
    reason: Line = about("Why, for people.")
    suspect: Name | None = about(
        "The node that computed or sent what is of no use; none where it is nobody's fault.", default=None
    )


@message("reply.masks_wanted")
@dataclass(frozen=True, kw_only=True, slots=True)
class MasksWanted:
    """The last stage was told of sets of tokens that it does not have."""

    node: Name = about("The node.")
    epoch: Epoch = about("The epoch of the stage.")
    request: RequestId = about("The request, which waits for them.")
    position: Tokens = about("Position of the first token that it can't choose for want of them.")


@message("reply.kv_copied")
@dataclass(frozen=True, kw_only=True, slots=True)
class KvCopied:
    """A source of KV rows has caught up with decoding or, when ``final``, has sent everything up to the hold."""

    node: Name = about("The node.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    stage: Index = about("Its stage in it.")
    final: bool = about("Nothing is left to send.")
    sent_bytes: Bytes = about("Payload sent so far.")
    took_s: Seconds = about("Since the command to copy.")


@message("reply.held")
@dataclass(frozen=True, kw_only=True, slots=True)
class RequestsHeld:
    """Stage 0 is held at a token boundary."""

    node: Name = about("The node.")
    pipeline: Name = about("The pipeline.")
    epoch: Epoch = about("The epoch in force.")
    requests: Annotated[tuple[HeldRequest, ...], Items(limits.MAX_SLOTS)] = about(
        "Every open request, the one that has waited longest first."
    )
