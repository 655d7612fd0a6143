"""The orchestrator's HTTP server: Starlette routes on uvicorn, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from broker.security import is_loopback
from orchestrator.errors import AddressInUse
from schemas.closing import Closing
from schemas.system_limits import describe

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

_log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 1


class HttpServer(Closing):
    """Listens from construction on, answers from ``start`` on. ``port`` is the real one where 0 was asked for."""

    def __init__(self, routes: Sequence[BaseRoute], *, host: str, port: int = 0) -> None:
        """Listen on an address.

        Raises:
            AddressInUse: the port is taken, or the host is not one of this machine.
        """
        import uvicorn
        from starlette.applications import Starlette

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise AddressInUse(f"cannot serve on {host} port {port}: {error.strerror}; choose another port") from error
        self.host = host
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            Starlette(routes=list(routes)),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        self._server = uvicorn.Server(config)
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await self._server.serve(sockets=[self._socket])

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log, once, that connections wait: asyncio would write a traceback for each, hundreds a second."""
        error = context.get("exception")
        if not isinstance(error, OSError):
            loop.default_exception_handler(context)
        elif str(error) not in self._said:
            self._said.add(str(error))
            _log.warning("connections have to wait: %s (not logged again)", describe(error))

    def start(self) -> None:
        """Answer requests; those that came since construction first."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering. Idempotent."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S + 0.5)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self


def reachable_urls(host: str, port: int, towards: tuple[str, int]) -> tuple[str, ...]:
    """``http://host:port`` as other machines may know this server, best first.

    Args:
        towards: a host and port on the network where the others are (the broker's).
    """
    wildcards = ("0.0.0.0", "::")
    if host not in wildcards:
        return (_url(host, port),)
    found = [_own_address(*towards), *interface_addresses()]
    addresses = [address for address in dict.fromkeys(found) if address and not is_loopback(address)]
    return tuple(_url(address, port) for address in (*addresses, "127.0.0.1"))


def _own_address(host: str, port: int) -> str | None:
    """This machine's address on the way to ``host``. Nothing is sent: UDP's connect only picks a route."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            name: str = probe.getsockname()[0]
            return name
    except OSError:
        return None


def interface_addresses() -> list[str]:
    """IPv4 addresses of this machine, asked of the system; empty where it keeps them to itself, as Android does."""
    import psutil

    try:
        up = {name for name, state in psutil.net_if_stats().items() if state.isup}
        every = psutil.net_if_addrs().items()
    except OSError:
        return []
    return [one.address for name, known in every if name in up for one in known if one.family == socket.AF_INET]


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
