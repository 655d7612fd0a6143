"""A look at a segment's graph before ONNX Runtime sees it: is it one of those that linguabus makes?

ONNX Runtime runs whatever a graph says. Whoever could tell a node to load one could have it compute for ever, read the
files that it names or fill the memory. So a graph is walked first, and refused for what none of ours has. What is left
ends: there are no loops in it, each node is computed once. Its sizes are bounded as far as they are constants; sizes
that are computed meanwhile are not, for which there is `edge_node.runtime.load_limits`.

Nothing here follows a message into another of its own kind, so the depth of what is read is fixed. The wire format is
read by `edge_node.runtime.protobuf`.
"""

from __future__ import annotations

import functools
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from edge_node.errors import GraphRefused, NotProtobuf
from edge_node.runtime import onnx_messages as onnx
from edge_node.runtime.graph_tensors import BlobSize, Tensor, check_tensor, numbers, places, repeated
from edge_node.runtime.onnx_messages import Found, Place
from edge_node.runtime.operators import ALLOWED, SIZED, STANDARD_DOMAINS
from edge_node.runtime.protobuf import fields, fixed
from schemas.limits import MAX_CONTEXT_TOKENS

MAX_GRAPH_BYTES = 32_000_000
"""Of a graph's file; weights are elsewhere. A model of a hundred blocks takes two million."""
MAX_NODES = 50_000
MAX_MADE_VALUES = 2 * MAX_CONTEXT_TOKENS
"""In a tensor whose size is a constant: positions of the longest context are one."""
_MAX_SIZE_VALUES = 64
"""Numbers that say how large something is: two for each axis of a tensor."""
_MAX_SIZE_BYTES = 10 * _MAX_SIZE_VALUES
"""As varints."""


def check_graph(path: Path, limit_bytes: int | None = None) -> None:
    """Look at a graph whose weights are in blobs beside it.

    Args:
        limit_bytes: of all weights together, those left out that rows are looked up in: they stay in their files.

    Raises:
        GraphRefused: it has something that no graph of linguabus has; the message says what.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_GRAPH_BYTES + 1)
    except OSError as error:
        raise GraphRefused(f"the graph can't be read: {error.strerror}") from error
    if len(data) > MAX_GRAPH_BYTES:
        raise GraphRefused(f"the graph is refused: it has more than {MAX_GRAPH_BYTES} bytes")
    check_model(data, functools.cache(functools.partial(_blob_size, path.parent)), limit_bytes)


def check_model(data: bytes, blob_size: BlobSize, limit_bytes: int | None = None) -> None:
    """Look at a model in ONNX's format (pure); see ``check_graph``."""
    try:
        model = onnx.read(onnx.MODEL, data, 0, len(data))
        if onnx.GRAPH not in model:
            raise GraphRefused("it has no nodes")
        _GraphCheck(data, model[onnx.GRAPH][0], blob_size).check(limit_bytes)
    except NotProtobuf as error:
        raise GraphRefused(f"the graph is refused: it is no model in ONNX's format ({error})") from error
    except GraphRefused as error:
        raise GraphRefused(f"the graph is refused: {error}") from None


def _blob_size(folder: Path, name: str) -> int | None:
    """The size of a file of the folder; None where there is none, or only a link that leads out of it."""
    try:
        found = os.lstat(folder / name)
        if stat.S_ISLNK(found.st_mode):
            real = Path(os.path.realpath(folder / name))
            if real.parent != Path(os.path.realpath(folder)):
                return None
            found = os.lstat(real)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


class _GraphCheck:
    def __init__(self, data: bytes, place: Place, blob_size: BlobSize) -> None:
        self._data = data
        self._blob_size = blob_size
        self._graph = onnx.read(onnx.GRAPH_KIND, data, *place)
        self._attributes: dict[bytes, tuple[bytes, Place]] = {}
        """Name and place of those that were looked at, by their bytes: most nodes have the same few."""
        self._types: set[bytes] = set()
        """Those that were looked at."""
        self._constants: dict[bytes, Found] = {}
        """The attribute of each Constant, by the name of what it gives."""
        self._sized: list[tuple[bytes, list[bytes], dict[bytes, Place]]] = []
        self._read_in_full: set[bytes] = set()
        """Names of what is not only looked up in."""

    def check(self, limit_bytes: int | None) -> None:
        nodes = self._graph.get(onnx.NODE, ())
        if len(nodes) > MAX_NODES:
            raise GraphRefused(f"it has {len(nodes)} nodes, allowed are {MAX_NODES}")
        for place in nodes:
            self._node(place)
        for key in (onnx.INPUT, onnx.OUTPUT, onnx.VALUE_INFO):
            for place in self._graph.get(key, ()):
                self._value(place)
        weights = [check_tensor(self._data, place, self._blob_size) for place in self._graph.get(onnx.INITIALIZER, ())]
        total = sum(one.size_bytes for one in weights if not one.is_external or one.name in self._read_in_full)
        if limit_bytes is not None and total > limit_bytes:
            raise GraphRefused(f"its weights are {total} bytes, planned are {limit_bytes} for all that the node has")
        named = {one.name: one for one in weights}
        for operator, inputs, attributes in self._sized:
            self._check_size(operator, inputs, attributes, named)

    def _node(self, place: Place) -> None:
        data = self._data
        inputs: list[bytes] = []
        outputs: list[bytes] = []
        attributes: dict[bytes, Place] = {}
        once: dict[int, bytes] = {}
        for key, start, stop in fields(data, *place):
            if key == onnx.NODE_INPUT:
                inputs.append(data[start:stop])
            elif key == onnx.NODE_OUTPUT:
                outputs.append(data[start:stop])
            elif key == onnx.ATTRIBUTE:
                name, where = self._attribute((start, stop))
                if name in attributes:
                    raise GraphRefused(f"a node has the attribute {onnx.readable(name)!r} twice")
                attributes[name] = where
            elif key in onnx.NODE_KIND.once and key not in once:
                once[key] = data[start:stop]
            elif key not in onnx.NODE_KIND.often:
                raise GraphRefused(f"it has a field {key >> 3} in a node, or has it twice")
        domain, operator = once.get(onnx.NODE_DOMAIN, b""), once.get(onnx.OPERATOR, b"")
        if (domain, operator) not in ALLOWED:
            of = f" of {onnx.readable(domain)}" if domain else ""
            raise GraphRefused(f"it has the operator {onnx.readable(operator)}{of}, which no model of this version has")
        is_look_up = operator == b"Gather" and domain in STANDARD_DOMAINS
        self._read_in_full.update(inputs[1:] if is_look_up else inputs)
        if operator == b"Constant":
            if len(outputs) != 1 or len(attributes) != 1:
                raise GraphRefused("it has a constant with more than one value, or none")
            self._constants[outputs[0]] = onnx.read(onnx.ATTRIBUTE_KIND, data, *next(iter(attributes.values())))
        elif operator in SIZED:
            self._sized.append((operator, inputs, attributes))

    def _attribute(self, place: Place) -> tuple[bytes, Place]:
        """Name and place of an attribute that may be there."""
        content = self._data[place[0] : place[1]]
        known = self._attributes.get(content)
        if known is None:
            found = onnx.read(onnx.ATTRIBUTE_KIND, self._data, *place)
            if len(onnx.ATTRIBUTE_VALUES.intersection(found)) > 1:
                raise GraphRefused("an attribute has two kinds of values")
            for tensor in found.get(onnx.ATTRIBUTE_TENSOR, ()):
                if check_tensor(self._data, tensor, self._blob_size).is_external:
                    raise GraphRefused("the values of a constant are in a file")
            known = onnx.text(self._data, found, onnx.ATTRIBUTE_NAME), place
            self._attributes[content] = known
        return known

    def _value(self, place: Place) -> None:
        for key, start, stop in fields(self._data, *place):
            if key == onnx.VALUE_TYPE and (content := self._data[start:stop]) not in self._types:
                onnx.read(onnx.TYPE_KIND, self._data, start, stop)
                self._types.add(content)

    # --- sizes --------------------------------------------------------------------------------------------------------

    def _check_size(
        self, operator: bytes, inputs: Sequence[bytes], attributes: dict[bytes, Place], weights: dict[bytes, Tensor]
    ) -> None:
        """Refuse a node that makes something huge by constants."""
        size = SIZED[operator]
        told: list[Sequence[float] | None] = [
            self._numbers(inputs[index], weights) for index in size.inputs if index < len(inputs)
        ]
        if size.attribute in attributes:
            found = onnx.read(onnx.ATTRIBUTE_KIND, self._data, *attributes[size.attribute])
            told.append(_numbers_of(self._data, found))
        made = _made(operator, told)
        if made > MAX_MADE_VALUES:
            raise GraphRefused(
                f"its {onnx.readable(operator)} makes {made:.0f} values of nothing, allowed are {MAX_MADE_VALUES}"
            )

    def _numbers(self, name: bytes, weights: dict[bytes, Tensor]) -> list[float] | None:
        """The values of a constant or of a weight in the graph; None of what is computed.

        Raises:
            GraphRefused: they are too many to be a size, or in a file.
        """
        constant = self._constants.get(name)
        tensor = weights.get(name)
        if constant is not None:
            if onnx.ATTRIBUTE_TENSOR not in constant:
                return _numbers_of(self._data, constant)
            tensor = check_tensor(self._data, constant[onnx.ATTRIBUTE_TENSOR][0], self._blob_size)
        if tensor is None:
            return None
        found = numbers(self._data, tensor, _MAX_SIZE_VALUES)
        if found is None:
            raise GraphRefused(f"the size {onnx.readable(name)!r} is no few numbers in the graph")
        return found


def _numbers_of(data: bytes, attribute: Found) -> list[float]:
    """The numbers of an attribute that has no tensor."""
    if any(stop - start > _MAX_SIZE_BYTES for some in attribute.values() for start, stop in some):
        raise GraphRefused("a size is no few numbers")
    floats = (*places(attribute, onnx.ATTRIBUTE_FLOAT), *places(attribute, onnx.ATTRIBUTE_FLOATS))
    integers = (*repeated(data, attribute, onnx.ATTRIBUTE_INT), *repeated(data, attribute, onnx.ATTRIBUTE_INTS))
    return [*integers, *(value for place in floats for value in fixed(data, *place, "<f"))]


def _made(operator: bytes, told: Sequence[Sequence[float] | None]) -> float:
    """How many values an operator makes, at least, going by the numbers that are constants."""
    if operator == b"Range":
        return _length_of_range(*(few[0] if few else None for few in told))
    made = 1.0
    for one in (abs(one) for few in told for one in few or ()):
        made *= 1 + one if operator in (b"Pad", b"Conv") else max(1, one)
    return made


def _length_of_range(start: float | None = None, limit: float | None = None, step: float | None = None) -> float:
    """How many values a range has; 0 where one of the three is computed."""
    if start is None or limit is None or step is None:
        return 0
    length = (limit - start) / step if step else math.inf
    return math.inf if math.isnan(length) else length
