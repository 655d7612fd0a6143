"""The root of the error tree and the contract's own errors.

``str(error)`` is one line for a person: what is wrong and, where it helps, what to do next.
"""


class LinguabusError(Exception):
    """Root of every error this project raises on purpose."""


class ContractError(LinguabusError):
    """Something from the network does not follow the contract: count it, drop it, log it once."""


class MessageError(ContractError):
    """A JSON message is malformed, outside its limits or of an unknown type."""


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
