"""Sets of tokens: bits by token id, the lowest first, as they travel and as both ends remember them.

In an answer that is bound to a form few sets come again and again ("anything but a quote"), so each travels once and is
then told by its name. Sender and receiver remember in the same order, so that both forget the same.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections import OrderedDict
from typing import Generic, TypeVar

from schemas.errors import MaskError

REMEMBERED_BYTES = 4_000_000
"""Of sets, unpacked; at least one is remembered."""
_LEVEL = 1
"""Of compression: a set takes a tenth of its bytes already at the lowest."""
_Kept = TypeVar("_Kept")


def mask_bytes(vocab_size: int) -> int:
    """Length of a set of tokens of a vocabulary of this size."""
    return -(-vocab_size // 8)


def mask_id(mask: bytes) -> str:
    """The name of a set: what it is made of decides it."""
    return hashlib.blake2b(mask, digest_size=16).hexdigest()


def pack_mask(mask: bytes) -> str:
    """A set as it travels."""
    return base64.b64encode(zlib.compress(mask, _LEVEL)).decode("ascii")


def unpack_mask(data: str, vocab_size: int, name: str) -> bytes:
    """The reverse of ``pack_mask``, for a set called ``name``.

    Raises:
        MaskError: it is damaged, has no token, or is not of a vocabulary of this size.
    """
    size_bytes = mask_bytes(vocab_size)
    inflate = zlib.decompressobj()
    try:
        mask = inflate.decompress(base64.b64decode(data, validate=True), size_bytes + 1)
    except (binascii.Error, zlib.error) as error:
        raise MaskError(f"a set of tokens can't be unpacked: {error}") from None
    if len(mask) != size_bytes or not inflate.eof or inflate.unused_data:
        raise MaskError(f"a set of tokens is not of the {size_bytes} bytes that a vocabulary of {vocab_size} has")
    if mask_id(mask) != name:
        raise MaskError("a set of tokens is not the one that its name says")
    if not any(mask) or (vocab_size % 8 and mask[-1] >> (vocab_size % 8)):
        raise MaskError("a set of tokens has none, or some beyond the vocabulary")
    return mask


class RecentMasks(Generic[_Kept]):
    """What is known of the sets used last, by name, up to ``limit_bytes`` of sets."""

    def __init__(self, vocab_size: int, limit_bytes: int = REMEMBERED_BYTES) -> None:
        self._most = max(1, limit_bytes // max(1, mask_bytes(vocab_size)))
        self._known: OrderedDict[str, _Kept] = OrderedDict()

    def use(self, name: str) -> _Kept | None:
        """What is known of a set, which counts as used last now."""
        if name in self._known:
            self._known.move_to_end(name)
        return self._known.get(name)

    def add(self, name: str, kept: _Kept) -> None:
        """Remember a set, and forget the one unused for longest if there are too many."""
        self._known[name] = kept
        self._known.move_to_end(name)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def __len__(self) -> int:
        return len(self._known)
