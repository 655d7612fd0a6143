"""Options that name a host."""

from __future__ import annotations

from typing import TypeVar

import click

_Given = TypeVar("_Given", bound="str | tuple[str, ...] | None")


def check_host(_context: click.Context, parameter: click.Parameter, given: _Given) -> _Given:
    """A callback: names or addresses that may stand in a certificate and in an invitation; an empty one is none."""
    for host in (given,) if isinstance(given, str) else given or ():
        if not host.isascii() or set(host) & set(" /@,\\") or len(host) > 253:
            raise click.BadParameter(f"{host} is no host's name or address", param=parameter)
    return given
