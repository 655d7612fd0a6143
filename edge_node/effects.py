"""What the node's core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from schemas.messages import Epoch, KeepBlobs, PrepareSegment

StageKey = tuple[str, Epoch, int]
"""(pipeline, epoch, stage): a node may have several stages of a ring, the first and the last above all."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish a message on the node's reply topic."""

    message: Any


@dataclass(frozen=True, slots=True)
class SendFrame:
    """Publish one or more frames, QoS 0."""

    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """Download and open a segment in the background; answer with ``loaded`` or ``load_failed``."""

    spec: PrepareSegment


@dataclass(frozen=True, slots=True)
class UnloadSegment:
    """Forget a segment, or stop loading it."""

    key: StageKey


@dataclass(frozen=True, slots=True)
class CopyPrefix:
    """Copy the first ``count`` positions of one slot's KV cache to another's."""

    key: StageKey
    source: int
    target: int
    count: int


@dataclass(frozen=True, slots=True)
class StandBy:
    """Fetch blobs in the background and keep them."""

    message: KeepBlobs


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to the stage's topics; answer with ``subscribed``."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The stage's topics are no longer wanted."""

    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Register:
    """Publish birth and status again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the node with this reason."""

    reason: str


Effect = (
    Reply | SendFrame | LoadSegment | UnloadSegment | CopyPrefix | StandBy | Subscribe | Unsubscribe | Register | Stop
)
