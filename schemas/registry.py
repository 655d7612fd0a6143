"""Messages by name, and their way to and from bytes.

On the wire a message is a JSON object with two members more than its dataclass: ``type`` (the name given to
``@message``) and ``v`` (the schema version, 1). ``json/*.v1.json`` holds the JSON Schema of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from schemas import contract, json_text
from schemas.errors import MessageError, MessageTooLong, UnexpectedType

MAX_MESSAGE_BYTES = 1_500_000
"""Longest JSON message taken from the bus; a prompt of 200,000 tokens fits."""

SCHEMA_VERSION = 1

_T = TypeVar("_T")
MESSAGES: dict[str, type] = {}
_NAMES: dict[type, str] = {}


def message(name: str) -> Callable[[type[_T]], type[_T]]:
    """Register a dataclass as the message ``name``."""

    def register(cls: type[_T]) -> type[_T]:
        MESSAGES[name] = cls
        _NAMES[cls] = name
        return cls

    return register


def name_of(cls: type) -> str:
    """The name that a message class is registered under."""
    return _NAMES[cls]


def encode(value: Any) -> bytes:
    """Encode a message as UTF-8 JSON.

    Raises:
        MessageError: it would be too long, or holds NaN, an infinity or a lone surrogate; limits are not checked.
    """
    document = {"type": _NAMES[type(value)], "v": SCHEMA_VERSION, **contract.dump(value)}
    try:
        payload = json_text.compact(document).encode()
    except UnicodeEncodeError:
        problem = "can't be sent: it has bytes that are no UTF-8 text, leave them out"
        raise MessageError(f"{document['type']} {problem}") from None
    except ValueError as error:
        raise MessageError(f"{document['type']} can't be sent as JSON: {str(error)!a}") from None
    _check_size(payload)
    return payload


def decode(payload: bytes, *expected: type[_T]) -> _T:
    """Parse and validate a message that must be of one of the ``expected`` types.

    Raises:
        MessageError: not JSON, too long, another type or version, or a member outside its limits.
    """
    _check_size(payload)
    try:
        # Decoded here because json.loads would also guess UTF-16, UTF-32 and a byte order mark.
        document = json_text.read(str(payload, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise MessageError("message: must be a mapping of keys to values")
    name, version = document.pop("type", None), document.pop("v", None)
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise MessageError(f"v: this version reads {SCHEMA_VERSION}, the message has {contract.short(version)}")
    cls = MESSAGES.get(name) if isinstance(name, str) else None
    if cls is None or cls not in expected:
        raise UnexpectedType(contract.short(name))
    loaded: _T = contract.load(cls, document)
    return loaded


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise MessageTooLong(len(payload), MAX_MESSAGE_BYTES)
