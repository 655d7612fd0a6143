"""The messages of ONNX's files, as far as a segment's graph has them (pure); field numbers are those of onnx.proto.

What is not here is refused: functions, training, graphs inside nodes, sequences, maps, optional and sparse tensors,
strings as values. So is a field that is there twice but should be there once, of which readers make different things.
"""

from __future__ import annotations

from typing import NamedTuple

from edge_node.errors import GraphRefused
from edge_node.runtime.protobuf import FIXED32, FIXED64, LENGTH, VARINT, fields, tag

Place = tuple[int, int]
"""Where a field's bytes begin and end; of a varint, its value and 0."""
Found = dict[int, list[Place]]
"""A message: its fields by tag."""


class MessageKind(NamedTuple):
    """The fields that a message may have, by tag."""

    name: str
    once: frozenset[int]
    often: frozenset[int]


def _texts(*numbers: int) -> frozenset[int]:
    return frozenset(tag(number, LENGTH) for number in numbers)


def _numbers(*numbers: int) -> frozenset[int]:
    return frozenset(tag(number, VARINT) for number in numbers)


GRAPH = tag(7, LENGTH)
MODEL = MessageKind("model", _texts(2, 3, 4, 6, 7) | _numbers(1, 5), _texts(8, 14))

NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO = (tag(number, LENGTH) for number in (1, 5, 11, 12, 13))
GRAPH_KIND = MessageKind("graph", _texts(2, 10), _texts(1, 5, 11, 12, 13, 16))

NODE_INPUT, NODE_OUTPUT, OPERATOR, ATTRIBUTE, NODE_DOMAIN = (tag(number, LENGTH) for number in (1, 2, 4, 5, 7))
NODE_KIND = MessageKind("node", _texts(3, 4, 6, 7), _texts(1, 2, 5, 9))

ATTRIBUTE_NAME, ATTRIBUTE_TENSOR = tag(1, LENGTH), tag(5, LENGTH)
ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_FLOATS, ATTRIBUTE_INTS = 2, 3, 7, 8
"""Numbers of fields."""
ATTRIBUTE_VALUES = frozenset(
    tag(number, kind) for number in (2, 3, 4, 5, 7, 8, 9) for kind in (VARINT, LENGTH, FIXED32)
)
"""Of which an attribute has one, whatever its type says."""
ATTRIBUTE_KIND = MessageKind(
    "attribute",
    _texts(1, 4, 5, 13) | _numbers(3, 20) | {tag(2, FIXED32)},
    _texts(7, 8, 9) | _numbers(8) | {tag(7, FIXED32)},
)

DIM, DIMS_PACKED, DATA_TYPE, TENSOR_NAME = tag(1, VARINT), tag(1, LENGTH), tag(2, VARINT), tag(8, LENGTH)
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = tag(9, LENGTH), tag(13, LENGTH), tag(14, VARINT)
TYPED_DATA = {4: FIXED32, 5: VARINT, 7: VARINT, 10: FIXED64, 11: VARINT}
"""Fields with values one by one, and how each is written where they are not packed."""
TENSOR_KIND = MessageKind(
    "tensor",
    _texts(8, 9, 12) | _numbers(2, 14),
    _texts(1, 13, 16, *TYPED_DATA) | {DIM} | {tag(number, kind) for number, kind in TYPED_DATA.items()},
)

KEY, VALUE = tag(1, LENGTH), tag(2, LENGTH)
ENTRY_KIND = MessageKind("entry", frozenset((KEY, VALUE)), frozenset())

VALUE_NAME, VALUE_TYPE = tag(1, LENGTH), tag(2, LENGTH)
VALUE_KIND = MessageKind("input or output", _texts(1, 2, 3), _texts(4))
TYPE_KIND = MessageKind("type", _texts(1, 6), frozenset())

_MEANINGS = {
    ("model", 20): "training",
    ("model", 25): "functions of its own",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "a graph inside a node",
    ("attribute", 11): "graphs inside a node",
    ("tensor", 6): "texts as values",
    ("type", 4): "sequences",
    ("type", 5): "maps",
    ("type", 8): "sparse tensors",
    ("type", 9): "optional values",
}
"""What some fields stand for that no message here may have."""


def read(kind: MessageKind, data: bytes, begin: int, end: int) -> Found:
    """The fields of a message.

    Raises:
        GraphRefused: it has others than it may have.
        NotProtobuf: it is no message.
    """
    name, once, often = kind
    found: Found = {}
    for key, start, stop in fields(data, begin, end):
        if key not in found and (key in once or key in often):
            found[key] = [(start, stop)]
        elif key in often:
            found[key].append((start, stop))
        else:
            raise GraphRefused(_unwanted(name, key, twice=key in found))
    return found


def _unwanted(kind: str, key: int, *, twice: bool) -> str:
    if twice:
        return f"field {key >> 3} of a {kind} is there twice"
    return f"it has {_MEANINGS.get((kind, key >> 3), f'a field {key >> 3} in a {kind}')}"


def text(data: bytes, found: Found, key: int) -> bytes:
    """The bytes of a field that is there once; none where it is not there."""
    places = found.get(key)
    return data[places[0][0] : places[0][1]] if places else b""


def number(found: Found, key: int) -> int:
    """The number of a field that is there once; 0 where it is not there."""
    places = found.get(key)
    return places[0][0] if places else 0


def readable(name: bytes) -> str:
    """A name out of a file, for a line: short, and printable."""
    shown = name[:80].decode("utf-8", "replace")
    return shown if shown.isprintable() else "".join(one if one.isprintable() else "?" for one in shown)
