"""Options that name a host."""

from __future__ import annotations

from typing import Any

import click


class HostName(click.ParamType):
    """A host's name or address, as it may stand in a certificate and in an invitation; empty for none."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check it."""
        host = str(value)
        if not host.isascii() or set(host) & set(" /@,\\") or len(host) > 253:
            self.fail(f"{host} is no host's name or address", param, ctx)
        return host
