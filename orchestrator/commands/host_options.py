"""Options that name a host."""

from __future__ import annotations

from typing import Any

import click


def check_host(_context: click.Context, parameter: click.Parameter, given: Any) -> Any:
    """A callback: a name or an address, or several, that may stand in a certificate and in an invitation."""
    for host in (given,) if isinstance(given, str) else given or ():
        if not host.isascii() or set(host) & set(" /@,\\") or len(host) > 253:
            raise click.BadParameter(f"{host} is no host's name or address", param=parameter)
    return given
