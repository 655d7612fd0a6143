"""Frame templates, for frames that differ only in position and payload: compared, not parsed, and patched, not built.

The steps of an answer send such frames, and the position of the next one is known before it comes. Reading and packing
it with a template take a third of the calls of ``decode_frames`` and ``pack_frame``, and give the same bytes.
"""

from __future__ import annotations

import zlib

from schemas.codec import CRC, CRC_OFFSET, HEADER_BYTES, POSITION, POSITION_OFFSET, Dtype, Kind, pack_frame
from schemas.messages import Epoch


class FrameTemplate:
    """A frame whose payload and checksum are left open, and whose position changes from step to step."""

    __slots__ = ("_crc", "_expected", "_head", "_size", "position")

    def __init__(
        self, kind: Kind, dtype: Dtype, flags: int, count: int, request: int, epoch: Epoch, attempt: int, width: int,
        payload_bytes: int,
    ) -> None:  # fmt: skip
        """Fix the members that all frames have in common; they are those of ``pack_frame``.

        Raises:
            FrameError: they contradict each other.
        """
        frame = pack_frame(kind, dtype, flags, count, request, epoch, attempt, 0, width, bytes(payload_bytes))
        self._size = len(frame)
        self._head = bytearray(frame[:CRC_OFFSET])
        self.at(0)

    def at(self, position: int) -> None:
        """Set the position of the frame to read or pack."""
        self.position = position
        POSITION.pack_into(self._head, POSITION_OFFSET, position)
        self._expected, self._crc = bytes(self._head), zlib.crc32(self._head)

    def read(self, data: bytes) -> bytes | None:
        """The payload of the frame, if it comes alone; None if it is another frame, or damaged."""
        if len(data) != self._size or not data.startswith(self._expected):
            return None
        payload = data[HEADER_BYTES:]
        if CRC.unpack_from(data, CRC_OFFSET)[0] != zlib.crc32(payload, self._crc):
            return None
        return payload

    def pack(self, payload: bytes) -> bytes:
        """The bytes of the frame with this payload, whose length is ``payload_bytes``."""
        return b"".join((self._expected, CRC.pack(zlib.crc32(payload, self._crc)), payload))
