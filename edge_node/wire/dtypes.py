"""The wire's element types: their names in plans and in frames, and how many rows fit into a message."""

from __future__ import annotations

from typing import Final

from schemas.codec import Dtype, activation_payload_bytes, frames_per_message
from schemas.messages import WireDtype

WIRE_DTYPES: Final[dict[WireDtype, Dtype]] = {"fp32": Dtype.FP32, "fp16": Dtype.FP16, "int8": Dtype.INT8}


def rows_per_message(dtype: Dtype, width: int) -> int:
    """Frames of one position of ``width`` values that fit into one message; at least one."""
    return frames_per_message(activation_payload_bytes(dtype, 1, width))
