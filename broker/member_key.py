"""Keys of members: made on the member's device, known to others as a hash.

A key is random and long, so nobody finds it from its hash, however quickly that is computed. Mosquitto reads the hash
in its password file; the orchestrator compares with it who asks for a blob.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

_KEY_BYTES = 32
_ITERATIONS = 101
"""Mosquitto's own number, for passwords that people choose; a key has 256 bits of its own."""
_SALT_BYTES = 12
"""Mosquitto 2.0 takes no other length."""
_HASH_BYTES = 64
_KIND = "7"
"""PBKDF2 with HMAC and SHA-512, in Mosquitto's password file."""


def new_key() -> str:
    """A key for a member, URL-safe text."""
    return secrets.token_urlsafe(_KEY_BYTES)


def hash_of(key: str) -> str:
    """What others are told of a key: ``$7$iterations$salt$hash``, as in Mosquitto's password file."""
    salt = secrets.token_bytes(_SALT_BYTES)
    derived = hashlib.pbkdf2_hmac("sha512", key.encode(), salt, _ITERATIONS, _HASH_BYTES)
    return f"${_KIND}${_ITERATIONS}${_text(salt)}${_text(derived)}"


def is_hash(text: str) -> bool:
    """Is this what `hash_of` makes, and not something that a password file reads as more lines?"""
    return _parts(text) is not None


def is_key(key: str, known: str) -> bool:
    """Does ``key`` have the hash ``known``? Takes as long for a wrong one."""
    parts = _parts(known)
    if parts is None:
        return False
    salt, derived = parts
    return hmac.compare_digest(derived, hashlib.pbkdf2_hmac("sha512", key.encode(), salt, _ITERATIONS, _HASH_BYTES))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _parts(text: str) -> tuple[bytes, bytes] | None:
    """(salt, hash) of a hash in exactly the form that `hash_of` writes."""
    head, *rest = text.split("$")
    if head or len(rest) != 4 or rest[:2] != [_KIND, str(_ITERATIONS)]:
        return None
    try:
        salt, derived = (base64.b64decode(part, validate=True) for part in rest[2:])
    except binascii.Error:
        return None
    return (salt, derived) if (len(salt), len(derived)) == (_SALT_BYTES, _HASH_BYTES) else None
