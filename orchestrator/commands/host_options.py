"""Options that name a host."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])
PAGE = "LINGUABUS_PAGE"
_PAGE = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+/?", re.ASCII)
_LONGEST = 253
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
"""Or an IPv4 address."""


def check_host(_context: click.Context, parameter: click.Parameter, given: Any) -> Any:
    """A callback: a name or an address, or several, that may stand in a certificate and in an invitation."""
    for host in (given,) if isinstance(given, str) else given or ():
        if not _is_host(host):
            raise click.BadParameter(f"{host!r} is no host's name or address", param=parameter)
    return given


def address_option(text: str, *, envvar: str | None = None) -> Callable[[_F], _F]:
    """``--address``, which may be given several times; ``text`` is its help."""
    return click.option(
        "--address", "addresses", callback=check_host, metavar="HOST", multiple=True, envvar=envvar, help=text
    )


def page_option(text: str) -> Callable[[_F], _F]:
    """``--page``, the address at which people find the gateway's page; ``text`` is its help."""
    return click.option("--page", callback=_check_page, metavar="URL", envvar=PAGE, help=f"{text} [default: {PAGE}]")


def _check_page(_context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    if given and not _PAGE.fullmatch(given):
        raise click.BadParameter("write it as in a browser: https://HOST:PORT", param=parameter)
    return given and given.rstrip("/")


def check_own(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    """A callback: a name or an address of this machine; empty for all of them."""
    if not given:
        return given
    check_host(context, parameter, given)
    try:
        found = socket.getaddrinfo(given, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise click.BadParameter(f"no host is known by the name {given}", param=parameter) from None
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            raise click.BadParameter(
                f"{given} is no address of this machine: give one that it has, or leave the option out", param=parameter
            ) from None
    return given


def _is_host(text: str) -> bool:
    if ":" not in text:
        return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return text.isascii() and text.isprintable() and not set(text) & set(" /@,\\")
