"""Where the broker is: `mqtt://[user:password@]host[:port]` or `mqtts://...` (TLS)."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from broker.errors import BadBrokerUrl

DEFAULT_PORT = 1883
DEFAULT_TLS_PORT = 8883
DEFAULT_URL = f"mqtt://127.0.0.1:{DEFAULT_PORT}"


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A parsed broker URL. `str()` gives it back without the password, so it may be logged."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    authority: str | None = field(default=None, repr=False)
    """The certificate, as PEM, of the only authority that is believed; None: those that the system believes."""
    other_hosts: tuple[str, ...] = ()
    """Where the same broker may be found, too."""

    @property
    def authorization(self) -> str:
        """What proves the same name and key to an HTTP server."""
        return f"Basic {base64.b64encode(f'{self.username}:{self.password}'.encode()).decode()}"

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{bracketed(self.host)}:{self.port}"


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def as_address(broker: str | BrokerAddress) -> BrokerAddress:
    """A broker's address, whose URL it may be; raises as `parse_broker_url`."""
    return parse_broker_url(broker) if isinstance(broker, str) else broker


def parse_broker_url(url: str) -> BrokerAddress:
    """Parse a broker URL. User name and password may be percent-encoded; the port defaults to 1883, TLS 8883.

    Raises:
        BadBrokerUrl: another scheme, no host, a bad port, or something after the host.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("mqtt", "mqtts"):
        raise BadBrokerUrl(url, "does not begin with mqtt:// or mqtts://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}"  # never repeat a password in an error
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadBrokerUrl(shown, str(error)) from error
    if not host or any(character.isspace() for character in host):
        raise BadBrokerUrl(shown, "has no host name")
    if port == 0:
        raise BadBrokerUrl(shown, "port 0 is not a port")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise BadBrokerUrl(shown, "has something after the host")
    tls = scheme == "mqtts"
    return BrokerAddress(
        host=host,
        port=port or (DEFAULT_TLS_PORT if tls else DEFAULT_PORT),
        tls=tls,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
