"""Effects: what the node's core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge_node.stage_spec import StageKey, StageSpec
from schemas.codec import Frame, KvRowsHeader
from schemas.messages import Epoch, KeepBlobs


@dataclass(frozen=True, slots=True)
class Reply:
    """Publish a message on the node's reply topic."""

    message: Any


@dataclass(slots=True)
class SendFrame:
    """Publish one or more frames, QoS 0. Not ``frozen``, which triples the time of making one: each step makes one."""

    topic: str
    data: bytes


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """Download and open a segment in the background; answer with ``loaded`` or ``load_failed``.

    It shares the KV buffers of ``heir_of`` for the layers both have, or is that very segment (``same_segment``).
    """

    spec: StageSpec
    heir_of: StageKey | None = None
    same_segment: bool = False


@dataclass(frozen=True, slots=True)
class UnloadSegment:
    """Forget a segment, or stop loading it."""

    key: StageKey


@dataclass(frozen=True, slots=True)
class CopyPrefix:
    """Copy the first ``count`` positions of one slot's KV cache to another's.

    ``copies``: where positions are folded into a state, which copy of it goes to which.
    """

    key: StageKey
    source: int
    target: int
    count: int
    copies: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class KvBlock:
    """Rows [position, position + count) of one request and layer; ``part`` is 0 for keys, 1 for values.

    With a ``copy`` it is a piece of that copy of the layer's folded states, which are those at ``position``, and
    ``part`` is its number.
    """

    request: int
    slot: int
    layer: int
    part: int
    position: int
    count: int
    copy: int | None = None


@dataclass(frozen=True, slots=True)
class SendKvRows:
    """Publish rows of a stage's KV cache as one message of frames of ``epoch``, QoS 1."""

    key: StageKey
    topic: str
    epoch: Epoch
    number: int
    """Of the message, in its copy."""
    blocks: tuple[KvBlock, ...]


@dataclass(frozen=True, slots=True)
class WriteKvRows:
    """Write the rows of a frame into a slot of the KV cache, or a piece of folded states into a ``copy`` of them."""

    key: StageKey
    slot: int
    header: KvRowsHeader
    frame: Frame
    copy: int | None = None


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
class SendHeartbeat:
    """Say at once how the node is."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the node with this reason."""

    reason: str


Effect = (
    Reply
    | SendFrame
    | LoadSegment
    | UnloadSegment
    | CopyPrefix
    | SendKvRows
    | WriteKvRows
    | StandBy
    | Subscribe
    | Unsubscribe
    | Register
    | SendHeartbeat
    | Stop
)
