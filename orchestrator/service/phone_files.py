"""What a phone fetches before it is a member: the script that makes it one, and this linguabus.

Neither is a secret. The line that ``linguabus invite --phone`` prints pins the server's key, and the script that came
over that connection has the wheel's SHA-256.
"""

from __future__ import annotations

import functools
import importlib.resources
from typing import TYPE_CHECKING

from orchestrator.service.own_wheel import Wheel, own_wheel

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

SCRIPT_PATH = "/join.sh"


def phone_routes() -> list[BaseRoute]:
    """The script, and the wheel whose hash it has. The wheel is made when somebody asks for the first time."""
    from starlette.exceptions import HTTPException
    from starlette.responses import Response
    from starlette.routing import Route

    wheel = functools.cache(own_wheel)

    def get_script(_: Request) -> Response:
        return Response(script_for(wheel()), media_type="text/x-shellscript")

    def get_wheel(request: Request) -> Response:
        made = wheel()
        if request.path_params["name"] != made.name.removesuffix(".whl"):
            raise HTTPException(404)
        return Response(made.data, media_type="application/octet-stream")

    return [Route(SCRIPT_PATH, get_script, methods=["GET"]), Route("/{name}.whl", get_wheel, methods=["GET"])]


def script_for(wheel: Wheel) -> str:
    """The script that installs this wheel."""
    text = importlib.resources.files("edge_node").joinpath("android/install.sh").read_text("utf-8")
    for name, value in (("WHEEL", wheel.name), ("WHEEL_SHA256", wheel.sha256)):
        text = text.replace(f"\n{name}=''\n", f"\n{name}='{value}'\n", 1)
    return text
