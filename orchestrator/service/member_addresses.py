"""Where members find the fleet's host, as they may ask it: ``GET /v1/addresses``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.whereabouts import PATH
from orchestrator.identity.membership import Membership
from orchestrator.service.http_access import Access

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute


def address_route(membership: Membership, access: Access) -> BaseRoute:
    """The route; members alone are told."""
    from starlette.routing import Route

    def get_addresses(request: Request) -> Response:
        from starlette.responses import JSONResponse

        access.check(request)
        return JSONResponse({"addresses": list(membership.addresses())}, headers={"cache-control": "no-store"})

    return Route(PATH, get_addresses, methods=["GET"])
