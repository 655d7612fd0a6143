"""Small graphs of ONNX, put together by hand: nodes have no library for graphs. Fields' numbers are onnx.proto's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_node.runtime.protobuf import bytes_field, varint_field

FLOAT, UINT8, INT8, INT32, FLOAT16 = 1, 2, 3, 6, 10
CONTRIB = "com.microsoft"
_INT_ATTRIBUTE, _TEXT_ATTRIBUTE = 2, 3
_EXTERNAL = 1
_IR_VERSION, _OPSET, _CONTRIB_OPSET = 8, 17, 1


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, int | str]) -> bytes:
    """A node of an operator of ONNX Runtime's own."""
    made = b"".join(bytes_field(1, name.encode()) for name in inputs) + b"".join(
        bytes_field(2, n.encode()) for n in outputs
    )
    made += bytes_field(4, operator.encode()) + bytes_field(7, CONTRIB.encode())
    for name, value in attributes.items():
        if isinstance(value, str):
            said = bytes_field(4, value.encode()) + varint_field(20, _TEXT_ATTRIBUTE)
        else:
            said = varint_field(3, value) + varint_field(20, _INT_ATTRIBUTE)
        made += bytes_field(5, bytes_field(1, name.encode()) + said)
    return made


def value(name: str, element: int, shape: Sequence[int]) -> bytes:
    """An input or output; 0 stands for a dimension that varies."""
    dims = b"".join(bytes_field(1, varint_field(1, size) if size else bytes_field(2, f"{name}_{axis}".encode()))
                    for axis, size in enumerate(shape))  # fmt: skip
    return bytes_field(1, name.encode()) + bytes_field(
        2, bytes_field(1, varint_field(1, element) + bytes_field(2, dims))
    )


def tensor(name: str, element: int, shape: Sequence[int], data: bytes) -> bytes:
    """Weights."""
    return _named(name, element, shape) + bytes_field(9, data)


def external_tensor(
    name: str, element: int, shape: Sequence[int], location: str, offset: int, size_bytes: int
) -> bytes:
    """Weights that are in a file beside the graph."""
    entries = {"location": location, "offset": str(offset), "length": str(size_bytes)}
    external = b"".join(
        bytes_field(13, bytes_field(1, key.encode()) + bytes_field(2, text.encode())) for key, text in entries.items()
    )
    return _named(name, element, shape) + external + varint_field(14, _EXTERNAL)


def _named(name: str, element: int, shape: Sequence[int]) -> bytes:
    """A tensor without its values."""
    dims = b"".join(varint_field(1, size) for size in shape)
    return dims + varint_field(2, element) + bytes_field(8, name.encode())


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], weights: Sequence[bytes] = ()
) -> bytes:
    """A model whose nodes run in this order."""
    graph = b"".join(bytes_field(1, one) for one in nodes) + bytes_field(2, b"trial")
    for number, parts in ((5, weights), (11, inputs), (12, outputs)):
        graph += b"".join(bytes_field(number, part) for part in parts)
    opsets = bytes_field(8, varint_field(2, _OPSET)) + bytes_field(
        8, bytes_field(1, CONTRIB.encode()) + varint_field(2, _CONTRIB_OPSET)
    )
    return varint_field(1, _IR_VERSION) + bytes_field(7, graph) + opsets
