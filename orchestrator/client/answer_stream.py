"""The pieces of an answer as they arrive, some twice and some not at all (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.messages import StreamEnd, StreamError, StreamText

StreamMessage = StreamText | StreamEnd | StreamError


@dataclass
class AnswerStream:
    """The pieces of one answer that have come, in order and each once."""

    question_bytes: int = 0
    """Length of the message that asked for it."""
    waiting: list[StreamMessage] = field(default_factory=list)
    """Not taken yet."""
    pieces: int = 0
    """So many have come, one after the other."""
    has_hole: bool = False
    """Something came after a piece that is missing."""
    unsure: bool = False
    """Something may have been missed: it is asked for until something comes."""

    def refused(self, size_bytes: int, why: StreamError) -> None:
        """Take in that the broker refused a question of this length, if it may be this answer's."""
        if size_bytes == self.question_bytes and not self.pieces:
            self.waiting.append(why)

    def take(self, message: StreamMessage) -> None:
        """Take in a message unless one before it is missing; it will come again with that one."""
        if isinstance(message, StreamText):
            if message.sequence > self.pieces:
                self.has_hole = self.unsure = True
                return
            if message.sequence < self.pieces:  # QoS 1 may deliver twice
                return
            self.pieces += 1
        elif isinstance(message, StreamEnd) and (self.has_hole or message.pieces > self.pieces):
            self.has_hole = self.unsure = True
            return
        self.has_hole = self.unsure = False
        self.waiting.append(message)
