"""Members that leave: ``POST /v1/leave``, with their own name and key."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.leaving import PATH
from orchestrator.identity.errors import OwnMember, UnknownMember
from orchestrator.identity.membership import Membership
from orchestrator.service.http_access import Access

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

_log = logging.getLogger(__name__)


def departure_route(membership: Membership, access: Access) -> BaseRoute:
    """The route; a member ends its own membership and nobody else's."""
    from starlette.routing import Route

    def post_leave(request: Request) -> Response:
        from starlette.responses import Response

        name = access.check(request)
        try:
            membership.end(name)
        except OwnMember:
            return Response(status_code=403)
        except UnknownMember:
            return Response(status_code=401)
        _log.info("%s has left by itself", name)
        return Response(status_code=200, headers={"cache-control": "no-store"})

    return Route(PATH, post_leave, methods=["POST"])
