"""Small graphs of ONNX, put together by hand: nodes have no library for graphs. Fields' numbers are onnx.proto's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FLOAT, UINT8, INT8, INT32, FLOAT16 = 1, 2, 3, 6, 10
CONTRIB = "com.microsoft"
_INT_ATTRIBUTE, _TEXT_ATTRIBUTE = 2, 3
_IR_VERSION, _OPSET, _CONTRIB_OPSET = 8, 17, 1


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int | str]) -> bytes:
    """A node of an operator of ONNX Runtime's own."""
    made = b"".join(_field(1, name.encode()) for name in inputs) + b"".join(_field(2, n.encode()) for n in outputs)
    made += _field(4, operator.encode()) + _field(7, CONTRIB.encode())
    for name, value in attributes.items():
        if isinstance(value, str):
            said = _field(4, value.encode()) + _number(20, _TEXT_ATTRIBUTE)
        else:
            said = _number(3, value) + _number(20, _INT_ATTRIBUTE)
        made += _field(5, _field(1, name.encode()) + said)
    return made


def value(name: str, element: int, shape: Sequence[int]) -> bytes:
    """An input or output; 0 stands for a dimension that varies."""
    dims = b"".join(_field(1, _number(1, size) if size else _field(2, f"{name}_{axis}".encode()))
                    for axis, size in enumerate(shape))  # fmt: skip
    return _field(1, name.encode()) + _field(2, _field(1, _number(1, element) + _field(2, dims)))


def tensor(name: str, element: int, shape: Sequence[int], data: bytes) -> bytes:
    """Weights."""
    dims = b"".join(_number(1, size) for size in shape)
    return dims + _number(2, element) + _field(8, name.encode()) + _field(9, data)


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], weights: Sequence[bytes] = ()
) -> bytes:
    """A model whose nodes run in this order."""
    graph = b"".join(_field(1, one) for one in nodes) + _field(2, b"trial")
    for number, parts in ((5, weights), (11, inputs), (12, outputs)):
        graph += b"".join(_field(number, part) for part in parts)
    opsets = _field(8, _number(2, _OPSET)) + _field(8, _field(1, CONTRIB.encode()) + _number(2, _CONTRIB_OPSET))
    return _number(1, _IR_VERSION) + _field(7, graph) + opsets


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
