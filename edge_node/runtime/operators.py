"""The operators that a segment's graph may have, by domain.

Those that conversions emit, and others that compute values of values, for models that are brought as ONNX files. None
that runs a graph (Loop, Scan, If, BeamSearch), reads a file or another format (EPContext), holds sequences, optional
values, maps or texts, or draws at random; of those that make a tensor of a size that is given, only the ones that
decoders have (``SIZED``).
"""

from __future__ import annotations

from typing import NamedTuple

_STANDARD = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention BitShift BitwiseAnd BitwiseNot BitwiseOr
    BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv Cos Cosh CumSum DequantizeLinear Div
    DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater
    GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization MatMul MatMulInteger Max Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow QLinearMatMul
    QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape RotaryEmbedding Round ScatterElements
    ScatterND Selu Shape Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Size Slice Softmax Softplus Softsign Split
    Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
_CONTRIB = """
    BiasGelu CausalConvWithState DynamicQuantizeMatMul FastGelu FusedMatMul GatedRMSNorm GatherBlockQuantized Gelu
    GroupQueryAttention LinearAttention LinearAttentionGate MatMulIntegerToFloat MatMulNBits MultiHeadAttention
    QuickGelu RotaryEmbedding SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization
"""
STANDARD_DOMAINS = (b"", b"ai.onnx")
CONTRIB_DOMAIN = b"com.microsoft"
ALLOWED = frozenset(
    (domain, operator.encode())
    for domains, operators in ((STANDARD_DOMAINS, _STANDARD), ((CONTRIB_DOMAIN,), _CONTRIB))
    for domain in domains
    for operator in operators.split()
)
"""(domain, operator)."""


class Size(NamedTuple):
    """How an operator is told the size of what it makes: by these inputs, or where it is old by this attribute."""

    inputs: tuple[int, ...]
    attribute: bytes = b""


SIZED = {
    b"ConstantOfShape": Size((0,)),
    b"Expand": Size((1,)),
    b"Tile": Size((1,)),
    b"Range": Size((0, 1, 2)),
    b"Pad": Size((1,), b"pads"),
    b"Conv": Size((), b"pads"),
}
"""Operators that make much of little."""
