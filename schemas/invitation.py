"""Invitations: one line that lets one device join a fleet (pure).

``linguabus://NAME@ADDRESS[,ADDRESS]:PORT/ROLE/FINGERPRINT/TOKEN``: who joins, where the fleet's host is found, by which
SHA-256 its authority is known, and a token that is good once. No character of it means anything to a shell.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from schemas.errors import BadInvitation
from schemas.names import is_name
from schemas.roles import ON_BROKER, Role

SCHEME = "linguabus://"
TOKEN_BYTES = 16
_FINGERPRINT_BYTES = 32
_MOST_CHARACTERS = 1024
_ADDRESS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,45}\]")
_LINE = re.compile(
    r"(?P<name>[^@/]+)@(?P<addresses>[^/]+):(?P<port>[0-9]{1,5})/(?P<role>[a-z-]+)"
    r"/(?P<fingerprint>[\w-]+)/(?P<token>[\w-]+)/?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """An invitation. ``str()`` is its line, token and all; ``repr`` leaves the token out."""

    name: str
    role: Role
    addresses: tuple[str, ...]
    port: int
    fingerprint: bytes
    token: bytes = field(repr=False)

    def __str__(self) -> str:
        hosts = ",".join(f"[{one}]" if ":" in one else one for one in self.addresses)
        secret = f"{_encoded(self.fingerprint)}/{_encoded(self.token)}"
        return f"{SCHEME}{self.name}@{hosts}:{self.port}/{self.role}/{secret}"

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """The invitation of a line.

        Raises:
            BadInvitation: it is none; the error does not repeat it.
        """
        text = text.strip()
        if not text.startswith(SCHEME):
            raise BadInvitation(f"it does not begin with {SCHEME}")
        found = _LINE.fullmatch(text.removeprefix(SCHEME)) if len(text) <= _MOST_CHARACTERS else None
        if found is None:
            raise BadInvitation("a part is missing, or too much")
        addresses = found["addresses"].split(",")
        if not is_name(found["name"]) or not all(_ADDRESS.fullmatch(one) for one in addresses):
            raise BadInvitation("its name or an address is none")
        role = next((known for known in ON_BROKER if known == found["role"]), None)
        fingerprint, token = _decoded(found["fingerprint"]), _decoded(found["token"])
        if role is None or not 0 < int(found["port"]) < 65536:
            raise BadInvitation("its role or port is none")
        if (len(fingerprint), len(token)) != (_FINGERPRINT_BYTES, TOKEN_BYTES):
            raise BadInvitation("its end is damaged")
        return cls(
            name=found["name"],
            role=role,
            addresses=tuple(one.strip("[]") for one in addresses),
            port=int(found["port"]),
            fingerprint=fingerprint,
            token=token,
        )


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return b""
