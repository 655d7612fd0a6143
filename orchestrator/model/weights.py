"""Weights as content-addressed blobs: one per set of units that use the same tensors.

So each unit has one blob of its own, and what several units share (tied embedding and head, cos/sin tables) is a blob
of its own that is stored, sent and kept once. A blob is the tensors' raw bytes one after the other, each aligned so
that a memory-mapped file can be used as it is. Tensors are copied in pieces; the model is never held in memory.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.cone import cheap_cone, outside_inputs
from orchestrator.model.errors import BlobCorrupt, BrokenModel
from orchestrator.model.graph import copied
from orchestrator.model.manifest import Blob
from orchestrator.model.shapes import FLOAT_NAMES
from orchestrator.model.source_files import leads_out
from orchestrator.model.split import SplitPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import TensorProto

INLINE_BYTES = 1024  # smaller tensors stay in the graph
PIECE_BYTES = 4 << 20
BFLOAT16 = 16  # onnx.TensorProto.DataType
BFLOAT16_EXPONENT = 0x7F80  # all ones in NaN and infinity
SMALL_ALIGN, PAGE_ALIGN, PAGE_FROM_BYTES = 64, 4096, 64 << 10


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie."""

    sha256: str
    offset: int
    length: int


def weight_groups(plan: SplitPlan) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Initializers by the exact set of units that read them, directly or through the cheap cone."""
    users: dict[str, set[int]] = {}
    for unit in range(plan.num_units):
        steps = [s for s, u in zip(plan.decoder.core, plan.unit_of, strict=True) if u == unit]
        _, leaves = cheap_cone(plan.decoder, outside_inputs(plan.decoder, steps))
        for name in leaves:
            if name in plan.decoder.initializers:
                users.setdefault(name, set()).add(unit)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, units in users.items():
        groups.setdefault(tuple(sorted(units)), []).append(name)
    return {units: tuple(names) for units, names in groups.items()}


def pack(
    plan: SplitPlan, folder: Path, progress: Callable[[int, int], None]
) -> tuple[tuple[Blob, ...], dict[str, Place]]:
    """Write the blobs of ``plan`` into ``folder``; returns them and where each tensor went.

    ``progress`` is called with bytes done and bytes in all.

    Raises:
        BrokenModel: an external weight file is missing or too short, or a weight is NaN or infinite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = weight_groups(plan)
    weights, where = plan.decoder.initializers, plan.decoder.folder
    sources = {n: Source.read(weights[n], where) for names in groups.values() for n in names}
    total = sum(s.length for s in sources.values())
    done = 0
    units_of: dict[str, set[int]] = {}
    sizes: dict[str, int] = {}
    places: dict[str, Place] = {}
    for units, names in groups.items():
        large = [n for n in names if sources[n].length >= INLINE_BYTES]
        for name in set(names).difference(large):
            _check_finite(weights[name], b"".join(sources[name].pieces()))
        if not large:
            continue
        partial = folder / f"partial-{os.getpid()}"
        digest, offsets, position = hashlib.sha256(), {}, 0
        with partial.open("wb") as out:
            for name in large:
                align = PAGE_ALIGN if sources[name].length >= PAGE_FROM_BYTES else SMALL_ALIGN
                padding = bytes(-position % align)
                digest.update(padding)
                out.write(padding)
                position += len(padding)
                offsets[name] = position
                for chunk in sources[name].pieces():
                    _check_finite(weights[name], chunk)
                    digest.update(chunk)
                    out.write(chunk)
                    done += len(chunk)
                    progress(done, total)
                position += sources[name].length
        sha256 = digest.hexdigest()
        partial.replace(folder / sha256)
        sizes[sha256] = position
        units_of.setdefault(sha256, set()).update(units)
        places.update({n: Place(sha256, offsets[n], sources[n].length) for n in large})
    progress(total, total)
    blobs = [Blob(s, sizes[s], tuple(sorted(units_of[s]))) for s in sizes]
    return tuple(sorted(blobs, key=lambda b: b.units)), places


def checked_pieces(folder: Path, sha256: str, size_bytes: int, model: str) -> Iterator[bytes]:
    """The bytes of a blob of the model of that name; at their end it is known whether they are what they should be.

    Raises:
        BlobCorrupt: they are not.
        OSError: the file can't be read.
    """
    digest, left = hashlib.sha256(), size_bytes
    with (folder / sha256).open("rb") as file:
        while piece := file.read(min(left, PIECE_BYTES)):
            digest.update(piece)
            left -= len(piece)
            yield piece
        is_longer = file.read(1) != b""
    if is_longer or digest.hexdigest() != sha256:
        raise BlobCorrupt(f"blob {sha256[:12]} of {model} is damaged; remove the model, add it again")


def _check_finite(tensor: TensorProto, raw: bytes) -> None:
    """Refuse NaN and infinity in weights and in the scales of quantised ones; a single value may be a mask's."""
    import numpy as np

    if math.prod(tensor.dims) < 2:
        return
    if tensor.data_type == BFLOAT16:
        finite = (np.frombuffer(raw, np.uint16) & BFLOAT16_EXPONENT != BFLOAT16_EXPONENT).all()
    elif tensor.data_type in FLOAT_NAMES:
        finite = np.isfinite(np.frombuffer(raw, FLOAT_NAMES[tensor.data_type])).all()
    else:
        return
    if not finite:
        raise BrokenModel(f"weight {tensor.name!r} has NaN or infinity in it: get the model anew, from its authors")


def refer_to_blobs(plan: SplitPlan, places: dict[str, Place]) -> bytes:
    """The decoder's graph with its weights replaced by references to blobs; small ones inline, unused ones gone."""
    from onnx import TensorProto

    model = copied(plan.decoder.model)
    used = {n for names in weight_groups(plan).values() for n in names}
    tensors = [t for t in plan.decoder.model.graph.initializer if t.name in used]
    del model.graph.initializer[:]
    for tensor in tensors:
        stored = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        place = places.get(tensor.name)
        if place is None:
            stored.raw_data = b"".join(Source.read(tensor, plan.decoder.folder).pieces())
        else:
            refer(stored, place.sha256, place.offset, place.length)
        model.graph.initializer.append(stored)
    graph: bytes = model.SerializeToString(deterministic=True)
    return graph


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Have a tensor's bytes in a file, ``location`` in the folder of the graph's weights."""
    from onnx import TensorProto

    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def float32_values(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """The values of a tensor of floats, in its shape, as float32; external files are in ``folder``."""
    import numpy as np
    from onnx import helper

    raw = b"".join(Source.read(tensor, folder).pieces())
    values = np.frombuffer(raw, helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return values.reshape(tuple(tensor.dims)).astype(np.float32)


@dataclass(frozen=True)
class Source:
    """A tensor's bytes before packing: in an external file, or in the graph itself."""

    name: str
    path: Path | None
    offset: int
    length: int
    inline: bytes

    @staticmethod
    def read(tensor: TensorProto, folder: Path) -> Source:
        """Where the bytes of ``tensor`` are; external files are relative to ``folder``, and inside it."""
        from onnx import TensorProto

        name = tensor.name
        if tensor.data_location != TensorProto.EXTERNAL:
            raw = _inline_bytes(tensor)
            return Source(name, None, 0, len(raw), raw)
        entries = {e.key: e.value for e in tensor.external_data}
        path = folder / entries.get("location", "")
        if not path.is_file():
            raise BrokenModel(f"the weight file {path} of tensor {name!r} is missing")
        if path.is_symlink() and leads_out(path, [folder]):
            raise BrokenModel(f"the weight file {path} of tensor {name!r} is a link to a file elsewhere")
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", path.stat().st_size - offset))
        except ValueError:
            offset = length = -1
        if offset < 0 or length < 0:
            raise BrokenModel(f"{path}: where tensor {name!r} lies is said in no numbers: get the model anew")
        if offset + length > path.stat().st_size:
            raise BrokenModel(f"{path} is too short for tensor {name!r}: it was not downloaded or written in full")
        return Source(name, path, offset, length, b"")

    def pieces(self) -> Iterator[bytes]:
        if self.path is None:
            yield self.inline
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                piece = file.read(min(left, PIECE_BYTES))
                left -= len(piece)
                yield piece


def _inline_bytes(tensor: TensorProto) -> bytes:
    from onnx import numpy_helper

    return tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
