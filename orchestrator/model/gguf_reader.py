"""The ``gguf`` package's reader with the entries of a header as plain values.

It keeps an array object for the length and the content of each string, on a memory map of its own kind: a kilobyte for
each token and merge of a vocabulary, more than the weights of a small model. A class made when it is asked for, since
the package is there only where models are converted.
"""

from __future__ import annotations

import functools
from typing import Any

_STRING_LENGTH_BYTES, _ARRAY_HEAD_BYTES = 8, 12


@functools.cache
def compact_reader() -> Any:
    """A `gguf.GGUFReader` that takes less memory: parts of an array are bytes, or tuples of one number.

    transformers asks for no more: it indexes and iterates over what a part is.
    """
    import numpy as np
    from gguf import GGUFValueType
    from gguf.gguf_reader import GGUFReader

    class CompactReader(GGUFReader):
        @property
        def data(self) -> Any:
            """The file's bytes; without what a memory map's views carry each."""
            return self._bytes

        @data.setter
        def data(self, mapped: Any) -> None:
            self._bytes = mapped.view(np.ndarray)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            position = orig_offs + _ARRAY_HEAD_BYTES
            parts: list[Any] = []
            if kind == GGUFValueType.STRING:
                view = memoryview(self._bytes)
                for _ in range(count):
                    begin = position + _STRING_LENGTH_BYTES
                    position = begin + int.from_bytes(view[position:begin], "little")
                    parts.append(bytes(view[begin:position]))
            elif kind in self.gguf_scalar_to_np:
                values = self._get(position, self.gguf_scalar_to_np[kind], count)
                position += values.nbytes
                parts = [(value,) for value in values.tolist()]
            else:
                return super()._get_field_parts(orig_offs, raw_type)
            types = [GGUFValueType.ARRAY, kind] if count else [GGUFValueType.ARRAY]
            return position - orig_offs, parts, list(range(count)), types

    return CompactReader
