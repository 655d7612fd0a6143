"""What a LOGPROBS frame says of one token: how likely it was, and the likeliest tokens at its place."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.codec import logprobs_bytes


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural logarithms of probabilities."""

    token: float
    ids: Sequence[int]
    """Of the likeliest tokens, the likeliest first."""
    values: Sequence[float]
    """Theirs."""


def pack_logprobs(logprobs: Logprobs) -> bytes:
    """The bytes of one token."""
    count = len(logprobs.ids)
    return struct.pack(f"<f{count}i{count}f", logprobs.token, *logprobs.ids, *logprobs.values)


def unpack_logprobs(data: bytes) -> Logprobs:
    """The reverse of ``pack_logprobs``."""
    count = (len(data) - logprobs_bytes(0)) // (logprobs_bytes(1) - logprobs_bytes(0))
    token, *rest = struct.unpack(f"<f{count}i{count}f", data)
    return Logprobs(token, rest[:count], rest[count:])


def split_logprobs(payload: bytes | bytearray | memoryview, alternatives: int) -> list[bytes]:
    """The bytes of each token in a LOGPROBS frame's payload."""
    size = logprobs_bytes(alternatives)
    return [bytes(payload[start : start + size]) for start in range(0, len(payload), size)]
