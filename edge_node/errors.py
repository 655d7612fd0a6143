"""Errors of a node."""

import re
from collections.abc import Sequence

from broker.errors import HOW_TO_JOIN
from schemas import PROTOCOL_VERSION
from schemas.errors import LinguabusError
from schemas.limits import MAX_LINE
from schemas.mdns import Announcement
from schemas.messages import LoadFailureCode

_RUNTIME_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .+? failed: ?|"
    r"\S+\.(?:h|cc|cpp):\d+ [^()]*\(.*?\)(?: const)?(?: \[with [^\]]*\])? "
)
"""What ONNX Runtime says of itself in its errors: kind, file, line and signature of the function that failed."""
_LACKING = re.compile(
    r"[Oo]pset|not a registered function|[Cc]ould not find an implementation|[Uu]nrecognized attribute"
)
_MAX_REASON = 200


class NodeError(LinguabusError):
    """Base of a node's own errors."""


class HomeInUse(NodeError):
    """Another node runs on this home."""

    def __init__(self, home: str, pid: str) -> None:
        process = f" (process {pid})" if pid else ""
        super().__init__(
            f"a node runs on {home} already{process}: stop that one first, or give this one another --home"
        )


class NotJoined(NodeError):
    """A device that is no member of a fleet was not told of another broker, and has none that lets it in.

    ``fleets``: what is announced in its network.
    """

    def __init__(self, address: str, reason: str, fleets: Sequence[Announcement]) -> None:
        own = f"no broker of its own lets it in ({address}: {reason})"
        hosts = "; ".join(f"{one.fleet} at {' or '.join(one.addresses[:3])}" for one in fleets)
        near = f"; in this network there is the fleet {hosts}" if fleets else ""
        newer = bool(fleets) and all(one.protocol > PROTOCOL_VERSION for one in fleets)
        update = "; its linguabus is newer than this one: take the same" if newer else ""
        super().__init__(f"this device has joined no fleet, and {own}{near}: {HOW_TO_JOIN}{update}")


class BlobUnavailable(NodeError):
    """No blob server gave the blob, or what it gave has another SHA-256."""


class BlobDamaged(BlobUnavailable):
    """The orchestrator's own file is not what it was."""


class StorageFull(NodeError):
    """The blobs do not fit into the storage the node may use."""


class LoadCancelled(NodeError):
    """The segment was released while it was being loaded, or a transfer has to wait."""


class SegmentUnusable(NodeError):
    """ONNX Runtime can't open the segment, or it is not what the plan says."""


class GraphRefused(SegmentUnusable):
    """A graph has something that no graph of linguabus has: ONNX Runtime does not see it."""


class NotProtobuf(NodeError):
    """Bytes are not what protocol buffers look like."""


class MemoryExceeded(NodeError):
    """A segment takes far more memory than the plan says."""


class WrongAnswers(NodeError):
    """A segment does not compute what it should."""


class NotFinite(NodeError):
    """A hidden state or logit that this node computed is NaN or infinite."""


class BadInput(NotFinite):
    """A hidden state is NaN or infinite as it arrived: whoever sent it is at fault."""


class NodeRefused(NodeError):
    """The orchestrator does not take this node; the message says what to do."""


class BrokerTooTight(NodeError):
    """The broker's messages are too short for a node to register."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"this broker passes on messages of {limit_bytes:,} bytes at most, a node needs {size_bytes:,} to register:"
            " raise its limit (Mosquitto: max_packet_size, message_size_limit)"
        )


def failure_code(error: Exception) -> LoadFailureCode:
    """What kept a segment from being loaded, for programs."""
    match error:
        case WrongAnswers():
            return "wrong_answers"
        case SegmentUnusable():
            return "unusable"
        case BlobUnavailable():
            return "no_files"
        case StorageFull() | MemoryExceeded() | MemoryError():
            return "no_room"
    return "internal"


def reason_of(error: Exception) -> str:
    """An error as a line for the orchestrator: the text of one of ours; of any other, its type too."""
    return (str(error) if isinstance(error, NodeError) else f"{type(error).__name__}: {error}")[:MAX_LINE]


def runtime_reason(error: Exception) -> str:
    """What ONNX Runtime raised, in a line without its own files and functions; with what helps, if that is known."""
    line = _RUNTIME_NOISE.sub("", (str(error).splitlines() or [""])[0]).strip() or type(error).__name__
    line = line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]} ..."
    return f"{line.rstrip('.')}: a newer ONNX Runtime may have it" if _LACKING.search(line) else line
