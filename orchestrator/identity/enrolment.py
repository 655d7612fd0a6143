"""Enrolment over HTTPS: whoever has an invitation's token becomes a member.

``GET /v1/authority`` gives the authority's certificate, which a device compares with the fingerprint of its invitation
before it sends anything. ``POST /v1/enrol`` takes a token and the hash of a key that the device has made, and gives
what else a member has to know. Nobody is told why a token is not good.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from broker.joining import AUTHORITY_PATH, ENROL_PATH
from broker.member_key import is_hash
from broker.security import peer_of
from orchestrator.identity.errors import DoorShut, InvitationOver
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.register import Register
from orchestrator.identity.wrong_attempts import WrongAttempts
from schemas.invitation import TOKEN_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

_MOST_BYTES = 4096
_log = logging.getLogger(__name__)


class Enrolment:
    """Makes members of who is invited."""

    def __init__(
        self,
        fleet: FleetFolder,
        register: Register,
        addresses: Callable[[], Sequence[str]],
        joined: Callable[[], None],
    ) -> None:
        """``addresses``: of this machine, as members may know it. ``joined`` is called after each new member: the
        broker has to know it."""
        self._fleet = fleet
        self._register = register
        self._addresses = addresses
        self._joined = joined
        self._wrong = WrongAttempts()
        self._turn = threading.Lock()

    def routes(self) -> list[BaseRoute]:
        """The two routes."""
        from starlette.routing import Route

        return [
            Route(AUTHORITY_PATH, self._get_authority, methods=["GET"]),
            Route(ENROL_PATH, self._post_enrol, methods=["POST"]),
        ]

    async def _get_authority(self, _: Request) -> Response:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(self._fleet.authority, media_type="application/x-pem-file")

    async def _post_enrol(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BYTES:
                return JSONResponse({"error": "too long"}, 413)
        status, answer, headers = await run_in_threadpool(
            self.enrol, body, peer_of(request.client.host if request.client else "")
        )
        return JSONResponse(answer, status, headers={"cache-control": "no-store", **headers})

    def enrol(self, body: bytes, peer: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """HTTP status, answer and headers of it to a request from an address."""
        with self._turn:
            if wait_s := math.ceil(self._wrong.wait_s(peer)):
                error = f"too many attempts that went wrong: try again in {wait_s} s"
                return 429, {"error": error}, {"retry-after": str(wait_s)}
            try:
                token, key_hash = _read(body)
                member = self._register.enrol(token, key_hash)
            except (ValueError, RecursionError):
                self._wrong.add(peer)
                return 400, {"error": "that is no request to join"}, {}
            except InvitationOver as over:
                self._wrong.add(peer)
                if isinstance(over, DoorShut):
                    text = "%s at %s has an invitation, and the door is closed: 'linguabus permit-join 15m' opens it"
                    _log.warning(text, over.name, peer)
                else:
                    _log.warning("somebody at %s tried to join with an invitation that is not good", peer)
                return 403, {"error": str(over)}, {}
            self._joined()
        addresses = self._fleet.addresses(self._addresses())
        credential = self._fleet.credential(member.name, member.role, "", addresses)
        given = {name: getattr(credential, name) for name in ("name", "role", "authority", "broker_port", "http_port")}
        return 200, given | {"addresses": list(credential.addresses)}, {}


def _read(body: bytes) -> tuple[bytes, str]:
    """Token and hash of a key; raises ValueError."""
    given = json.loads(body)
    if not isinstance(given, dict) or set(given) != {"token", "key_hash"}:
        raise ValueError
    if not all(isinstance(value, str) for value in given.values()) or not is_hash(given["key_hash"]):
        raise ValueError
    try:
        token = base64.b64decode(given["token"], validate=True)
    except binascii.Error:
        raise ValueError from None
    if len(token) != TOKEN_BYTES:
        raise ValueError
    return token, given["key_hash"]
