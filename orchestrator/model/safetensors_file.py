"""A safetensors file that is written tensor by tensor, with no more in memory than is being written.

Layout: the length of the header as u64, the header as JSON with each tensor's type, shape and place, then their bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.closing import Closing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VALUE_BYTES = 4
_ALIGN = 8


class SafetensorsFile(Closing):
    """Float32 tensors of the given shapes, by name; each is to be written once, in any order."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self._places: dict[str, tuple[int, int]] = {}
        position = 0
        for name, shape in shapes.items():
            end = position + _VALUE_BYTES * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
            self._places[name] = (position, end)
            position = end
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % _ALIGN)
        self._begin = 8 + len(raw)
        self._file = path.open("wb")
        self._file.write(len(raw).to_bytes(8, "little") + raw)

    def write(self, name: str, pieces: Iterable[NDArray[np.float32]]) -> None:
        """Write a tensor, given in pieces that follow each other."""
        position, end = self._places[name]
        self._file.seek(self._begin + position)
        for piece in pieces:
            position += self._file.write(piece.astype("<f4", copy=False).tobytes())
        assert position == end, f"{name} has {end - position} bytes less than its shape"

    def close(self) -> None:
        """End the file."""
        self._file.close()
