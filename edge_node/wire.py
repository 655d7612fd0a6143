"""The wire's element types: their names in plans and in frames."""

from __future__ import annotations

from typing import Final

from schemas.codec import Dtype
from schemas.messages import WireDtype

WIRE_DTYPES: Final[dict[WireDtype, Dtype]] = {"fp32": Dtype.FP32, "fp16": Dtype.FP16, "int8": Dtype.INT8}
