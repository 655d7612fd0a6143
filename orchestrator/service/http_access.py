"""Who may ask: names and keys in ``Authorization``, and not too many wrong ones."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.security import peer_of
from orchestrator.identity.wrong_attempts import WrongAttempts

if TYPE_CHECKING:
    from starlette.requests import Request

Admit = Callable[[str, str], bool]
"""Is this the key of that name? Called in one thread at a time, though not always the same one.

It has to compare in constant time, and to take as long for a name that it does not know.
"""
_REMEMBERED = 4096
"""Of more that were right the oldest are forgotten."""
Read = Callable[[list[str]], tuple[str, str] | None]
"""Name and key of a request's ``Authorization`` headers; None where they are something else."""


class Access:
    """Lets those in whom ``admit`` knows.

    After too many wrong attempts from an address nothing is tried from there for a while. Many nodes can share an
    address, so who was right from there before is let in all the same.
    """

    def __init__(
        self,
        admit: Admit,
        *,
        read: Read | None = None,
        scheme: str = "Basic",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``read`` is for others than ``Authorization: Basic``, and ``scheme`` what these are called."""
        self._admit = admit
        self._read = read or _credentials
        self._challenge = {"www-authenticate": f'{scheme} realm="linguabus"'}
        self._lock = threading.Lock()
        self.wrong = WrongAttempts(clock)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._secret = secrets.token_bytes(32)

    def check(self, request: Request) -> str:
        """Return the name of who asks if the request may be answered.

        Raises:
            HTTPException: 401, with the same answer whatever is wrong, or 429 after too many of those.
        """
        from starlette.exceptions import HTTPException

        given = request.headers.getlist("authorization")
        if not given:
            raise HTTPException(401, "", self._challenge)
        peer = peer_of(request.client.host if request.client else "")
        with self._lock:  # one attempt at a time, so that twenty are twenty
            found = self._try(peer, given)
        if isinstance(found, str):
            return found
        if found > 0:
            raise HTTPException(429, "", {"retry-after": str(math.ceil(found))})
        raise HTTPException(401, "", self._challenge)

    def _try(self, peer: str, given: list[str]) -> str | float:
        """The name after the right attempt; else seconds until the next one makes sense, 0 after a wrong one."""
        attempt = hashlib.blake2b("\n".join([peer, *given]).encode(), key=self._secret).digest()
        wait_s = self.wrong.wait_s(peer)
        if wait_s and attempt not in self._known:
            return wait_s
        pair = self._read(given)
        if pair and self._admit(*pair):
            self._known[attempt] = None
            self._known.move_to_end(attempt)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return pair[0]
        self._known.pop(attempt, None)
        self.wrong.add(peer)
        return 0


def _credentials(given: list[str]) -> tuple[str, str] | None:
    """Name and key of an ``Authorization: Basic``; None where it is something else."""
    if len(given) != 1:
        return None
    scheme, _, encoded = given[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, key = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, key) if colon else None
