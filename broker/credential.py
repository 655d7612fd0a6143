"""What a member of a fleet was given when it joined: its name, its key, and how to know the fleet's servers.

It is in a file that only its owner can read. The key never stands on a command line, in a log or in a URL.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from broker.address import DEFAULT_TLS_PORT, BrokerAddress
from broker.errors import CredentialUnusable
from broker.private_file import write_private
from broker.tls import client_context
from schemas.names import is_name
from schemas.roles import ON_BROKER, Role

FILE = "credential.json"
_MOST_BYTES = 64 << 10
MOST_ADDRESSES = 16


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A member's credential.

    Attributes:
        name: in topics, and as the broker's user name.
        role: what it may do.
        key: what it proves its name with.
        authority: the certificate of the fleet's private authority, as PEM.
        addresses: of the fleet's host, the best first.
        broker_port, http_port: of the broker and of the orchestrator's server.
    """

    name: str
    role: Role
    key: str = field(repr=False)
    authority: str = field(repr=False)
    addresses: tuple[str, ...]
    broker_port: int = DEFAULT_TLS_PORT
    http_port: int

    def broker(self) -> BrokerAddress:
        """The fleet's broker, with what it wants to know."""
        first, *others = self.addresses
        return BrokerAddress(
            host=first,
            port=self.broker_port,
            tls=True,
            username=self.name,
            password=self.key,
            authority=self.authority,
            other_hosts=tuple(others),
        )

    def at(self, *addresses: str) -> Self:
        """The same for other addresses of the fleet's host, the best first; `MOST_ADDRESSES` of them."""
        return replace(self, addresses=addresses[:MOST_ADDRESSES])

    def save(self, path: Path) -> None:
        """Write it where only its owner can read it; whole, or not at all.

        Raises:
            OSError: it can't be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read one; None where there is none.

        Raises:
            CredentialUnusable: it can't be read, or is none.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CredentialUnusable(str(path), (error.strerror or str(error)).lower()) from error
        try:
            return cls.parse(json.loads(data) if len(data) <= _MOST_BYTES else None)
        except (ValueError, RecursionError) as error:
            raise CredentialUnusable(str(path), str(error)) from error

    @classmethod
    def parse(cls, given: Any) -> Self:
        """The credential of a JSON object.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(given, dict):
            raise ValueError("it is no object")
        addresses = given.get("addresses")
        texts = [given.get(key) for key in ("name", "role", "key", "authority")]
        ports = [given.get(key) for key in ("broker_port", "http_port")]
        if not all(isinstance(text, str) and text for text in texts) or given["role"] not in ON_BROKER:
            raise ValueError("it has no name, role, key or authority")
        if not is_name(given["name"]) or not all(type(port) is int and 0 < port < 65536 for port in ports):
            raise ValueError("its name or a port is none")
        if not isinstance(addresses, list | tuple) or not 1 <= len(addresses) <= MOST_ADDRESSES:
            raise ValueError("it has no addresses")
        if not all(is_address(one) for one in addresses):
            raise ValueError("an address is none")
        try:
            client_context(given["authority"])
        except (ssl.SSLError, ValueError) as error:
            raise ValueError("its authority is no certificate") from error
        return cls(
            name=given["name"],
            role=given["role"],
            key=given["key"],
            authority=given["authority"],
            addresses=tuple(addresses),
            broker_port=given["broker_port"],
            http_port=given["http_port"],
        )


def is_address(given: Any) -> bool:
    """Is this a host's name or address, and not more of a URL?"""
    return isinstance(given, str) and 0 < len(given) < 256 and given.isprintable() and not set(given) & set(" /@\\")
