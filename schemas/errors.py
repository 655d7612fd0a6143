"""The root of the error tree and the contract's own errors.

``str(error)`` is one line for a person: what is wrong and, where it helps, what to do next.
"""


class LinguabusError(Exception):
    """Root of every error this project raises on purpose."""


class ContractError(LinguabusError):
    """Something from the network does not follow the contract: count it, drop it, log it once."""


class MessageError(ContractError):
    """A JSON message is malformed, outside its limits or of an unknown type."""


class MessageTooLong(MessageError):
    """A JSON message has more bytes than any may have."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(f"message of {size_bytes} bytes, allowed are {limit_bytes}")
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class MemberError(MessageError):
    """A member is missing or outside its limits. ``place`` is its path, empty for the whole; ``problem`` says what."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place or 'message'}: {problem}")
        self.place = place
        self.problem = problem


class UnknownMember(MemberError):
    """There is a member that should not be; ``known`` are those that may be."""

    def __init__(self, place: str, member: str, known: tuple[str, ...]) -> None:
        # ascii(): a name from the network must not break a log into lines.
        super().__init__(place, f"{ascii(member)[:64]} is not a member of this message")
        self.member = member
        self.known = known


class UnexpectedType(MessageError):
    """The message is of a type that is unknown or does not belong here; ``name`` is short and on one line."""

    def __init__(self, name: str) -> None:
        super().__init__(f"type: {name} is not expected here")
        self.name = name


class TopicError(ContractError):
    """A topic or a part of one is not in the topic table."""


class FrameError(ContractError):
    """A binary frame does not add up."""


class FrameTruncated(FrameError):
    """The frame is shorter than its header or than the payload its header announces."""


class FrameOversized(FrameError):
    """The frame is longer than announced, or announces more than the limits allow."""


class FrameVersionMismatch(FrameError):
    """The magic bytes or the version are not ours."""


class FrameKindUnknown(FrameError):
    """The frame's kind is not one this version knows."""


class FrameDtypeMismatch(FrameError):
    """The dtype is unknown or not allowed for the frame's kind."""


class FrameShapeMismatch(FrameError):
    """Counts, widths and payload length contradict each other."""


class FrameChecksumMismatch(FrameError):
    """The CRC-32 does not match: the bytes changed on the way."""


class MaskError(ContractError):
    """A set of tokens is damaged, or is none of this vocabulary."""


class BadInvitation(LinguabusError):
    """A text is no invitation."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"that is no invitation: {reason}; paste all of the line that 'linguabus invite' has printed")
