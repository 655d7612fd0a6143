"""Marks: how a window of guesses says which tokens it holds, for the last stage alone (pure).

Stage 0 and the last stage know the prompt, so a mark is a hash with the prompt as its key. The nodes between, which are
told no tokens, learn none from it unless they know the prompt.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from schemas.codec import MARK_BYTES

_PLACE = struct.Struct("<Ii")


class GuessMarks:
    """Makes the marks of one request."""

    def __init__(self, request: int, prompt_ids: Sequence[int]) -> None:
        said = struct.pack(f"<Q{len(prompt_ids)}i", request, *prompt_ids)
        self._hash = hashlib.blake2b(digest_size=MARK_BYTES, key=hashlib.blake2b(said).digest())

    def mark(self, position: int, token: int) -> bytes:
        """The mark of a token at a position."""
        each = self._hash.copy()
        each.update(_PLACE.pack(position, token))
        return each.digest()

    def of(self, position: int, ids: Sequence[int]) -> bytes:
        """The marks of tokens from ``position`` on."""
        return b"".join(self.mark(place, token) for place, token in enumerate(ids, position))

    def right(self, position: int, ids: Sequence[int], marks: bytes) -> int:
        """How many of the tokens from ``position`` on have these marks, up to the first that has not."""
        for index, token in enumerate(ids):
            if self.mark(position + index, token) != marks[MARK_BYTES * index : MARK_BYTES * (index + 1)]:
                return index
        return len(ids)
