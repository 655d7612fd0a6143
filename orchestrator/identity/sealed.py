"""Bytes that only a passphrase opens: scrypt and AES-256-GCM behind a header with version and cost (pure).

Whatever is changed in a sealed file, header included, it does not open any more.
"""

from __future__ import annotations

import secrets
import struct
import unicodedata

from orchestrator.identity.errors import NoSealedFile, NotOpened

MAGIC = b"linguabus sealed"
VERSION = 1
_HEADER = struct.Struct(">16sBBBB16s12s")
"""Magic, version, log2 of scrypt's N, its r, its p, salt, nonce."""
_LOG2_N, _R, _P = 17, 8, 1
"""128 MB and half a second on a laptop."""
_MOST_LOG2_N, _MOST_R, _MOST_P = 18, 8, 4
"""Of a file that is read: more would let somebody else's file take this machine's memory, or its day."""
_LEAST_LOG2_N = 14


def seal(content: bytes, passphrase: str) -> bytes:
    """Content that nobody reads without the passphrase."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    header = _HEADER.pack(MAGIC, VERSION, _LOG2_N, _R, _P, salt, nonce)
    return header + AESGCM(_key(passphrase, salt, _LOG2_N, _R, _P)).encrypt(nonce, content, header)


def unseal(data: bytes, passphrase: str) -> bytes:
    """The content of what `seal` has made.

    Raises:
        NoSealedFile: it is something else, or of another version.
        NotOpened: the passphrase is another, or a bit is.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise NoSealedFile("it is no backup that linguabus has made")
    header, sealed = data[: _HEADER.size], data[_HEADER.size :]
    _, version, log2_n, r, p, salt, nonce = _HEADER.unpack(header)
    if version != VERSION:
        raise NoSealedFile(f"it is a backup of version {version}, and this linguabus reads {VERSION}: upgrade it")
    if not (_LEAST_LOG2_N <= log2_n <= _MOST_LOG2_N and 1 <= r <= _MOST_R and 1 <= p <= _MOST_P):
        raise NoSealedFile("its header is damaged: take another copy of it")
    try:
        return AESGCM(_key(passphrase, salt, log2_n, r, p)).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise NotOpened from None


def _key(passphrase: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # The same letters on every keyboard: some give an accent as a character of its own.
    text = unicodedata.normalize("NFC", passphrase)
    return Scrypt(salt=salt, length=32, n=1 << log2_n, r=r, p=p).derive(text.encode())
