"""A look at the way to a broker, step by step: name, port, encryption, clock, membership, the orchestrator's server.

Each step says what it found and what to do about it; what builds on a step that failed is left out.
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from broker.address import BrokerAddress, bracketed
from broker.connection_words import why
from broker.errors import BrokerRefused, BusError
from broker.https import ask
from broker.joining import AUTHORITY_PATH
from broker.mqtt import MqttBus
from broker.own_address import own_address
from broker.security import is_exposed, is_loopback
from broker.tls import client_context, unverified_context
from schemas.finding import Finding, failed, ok, warning
from schemas.roles import Role
from schemas.span_text import rough_span

TIMEOUT_S = 4.0
SKEW_S, WRONG_CLOCK_S = 60.0, 3600.0
"""A clock that is off by this much is worth a word; by that much, certificates are not believed some day."""
_DAY_S = 86_400.0
_ANY_PORT = 9
_ENDS_SOON_S = 7 * _DAY_S
_NOT_YET, _OVER = 9, 10
_OTHER_HOST = (62, 63, 64)
"""OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED; _HOSTNAME_MISMATCH, _EMAIL_, _IP_ADDRESS_."""


def check_link(
    address: BrokerAddress,
    *,
    http_port: int | None = None,
    http_host: str = "",
    role: Role = "client",
    file: Path | None = None,
    now: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Look at the way from this device to a broker.

    Args:
        http_port: of the fleet's orchestrator; None: of no fleet.
        http_host: where that is, if not at the broker's address.
        role, file: of a member: what it is, and where its credential is kept.
        now: this device's clock, in seconds since 1970.
    """
    reached, finding = _reach(address)
    yield finding
    if reached is None:
        return
    host, connection = reached
    with closing(connection):
        findings = list(_check_encryption(address, host, connection, now))
    yield from findings
    if http_port is not None:
        yield from _check_server(address, http_host or host, http_port, now)
    if all(finding.state != "failed" for finding in findings):
        yield _check_membership(address, role, file)


def _reach(address: BrokerAddress) -> tuple[tuple[str, socket.socket] | None, Finding]:
    """The first host that takes a connection, and that connection; what was found."""
    problems: list[tuple[str, str]] = []
    for host in (address.host, *address.other_hosts):
        try:
            connection = socket.create_connection((host, address.port), TIMEOUT_S)
        except (OSError, UnicodeError) as error:
            problems.append(_why_not(host, address.port, error))
        else:
            return (host, connection), ok("broker", f"{bracketed(host)}:{address.port} takes connections")
    said = "; ".join(said for said, _ in problems)
    return None, failed("broker", said, problems[0][1])


def _why_not(host: str, port: int, error: OSError | UnicodeError) -> tuple[str, str]:
    """What is wrong with a host, and what to do."""
    where = f"{bracketed(host)}:{port}"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"no host is known by the name {host}", "use its address, or give it that name in this network"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens at {where}", "start 'linguabus serve --with-broker' there"
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) == errno.EHOSTUNREACH:
        return f"no answer from {where}", _silent_remedy(host)
    if getattr(error, "errno", None) == errno.ENETUNREACH:
        return f"this device has no way to {where}", "is its Wi-Fi on, and the one of that host?"
    return f"{where}: {why(error)}", "is this device in a network?"


def _silent_remedy(host: str) -> str:
    own = own_address(host, _ANY_PORT) if ":" not in host else None  # of IPv6 nothing is known of neighbours
    try:
        together = ipaddress.ip_address(host) in ipaddress.ip_network((own, 24), strict=False) if own else False
    except ValueError:
        together = False
    if together and not is_loopback(host):
        return (
            "is it on, with that port open in its firewall? Both are in one network, whose Wi-Fi may keep its clients"
            " apart (guest network, client isolation): use another one, or a phone's hotspot"
        )
    if own and not is_loopback(host):
        return f"is it on, with that port open in its firewall? This device is {own}: join that host's Wi-Fi"
    return "is it on, with that port open in its firewall?"


# --- encryption -----------------------------------------------------------------------------------------------


def _check_encryption(
    address: BrokerAddress, host: str, connection: socket.socket, now: Callable[[], float]
) -> Iterator[Finding]:
    if not address.tls:
        if is_exposed(address):
            yield warning(
                "encryption",
                f"none: who is in the network of {host} reads and commands everything",
                "make a fleet there with 'linguabus init', and join it",
            )
        else:
            yield ok("encryption", "none, and none is needed on this machine")
        return
    context = client_context(address.authority) if address.authority else ssl.create_default_context()
    try:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            certificate, version = secured.getpeercert() or {}, secured.version()
    except ssl.SSLCertVerificationError as error:
        yield failed("encryption", *_disbelief(host, error))
    except ssl.SSLError as error:
        yield failed(
            "encryption",
            f"{host}:{address.port} does not speak TLS ({(error.reason or str(error)).lower()})",
            f"is another program at port {address.port} of that host, or a broker without encryption?",
        )
    except OSError as error:
        yield failed(
            "encryption",
            f"{host}:{address.port} does not begin TLS ({why(error)})",
            f"is another program at port {address.port} of that host, or a broker without encryption?",
        )
    else:
        yield ok("encryption", f"{version}, and the certificate is believed")
        yield _check_end(str(certificate.get("notAfter", "")), now())


def _disbelief(host: str, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    if error.verify_code in (_NOT_YET, _OVER):
        state = "not good yet" if error.verify_code == _NOT_YET else "over"
        return (
            f"by this device's clock the certificate of {host} is {state}",
            "set the clocks here and there; 'linguabus serve' makes a new certificate in time",
        )
    if error.verify_code in _OTHER_HOST:
        return (
            f"the certificate is for other names than {host}",
            f"on that host: linguabus init --update --address {host}, with the other options as before",
        )
    return (
        f"{host} is of another fleet, or somebody is in between ({error.verify_message})",
        "do not trust this network; if the fleet was made anew, remove this device's credential and join again",
    )


def _check_end(not_after: str, now_s: float) -> Finding:
    try:
        left_s = ssl.cert_time_to_seconds(not_after) - now_s
    except ValueError:
        return warning("certificate", "it does not say when it ends", "have the fleet make another")
    said = f"good for {left_s / _DAY_S:.0f} days"
    if left_s > _ENDS_SOON_S:
        return ok("certificate", said)
    return warning("certificate", said, "'linguabus serve' makes a new one in time: let it run, and look at its log")


# --- the orchestrator's server, and the clock -----------------------------------------------------------------


def _check_server(address: BrokerAddress, host: str, port: int, now: Callable[[], float]) -> Iterator[Finding]:
    """Its clock too, which is told by anybody: it is compared, and not believed."""
    where = f"{bracketed(host)}:{port}"
    try:
        answer = ask(host, port, unverified_context(), "GET", AUTHORITY_PATH, timeout_s=TIMEOUT_S)
    except ConnectionRefusedError:
        yield failed(
            "orchestrator", f"nothing listens at {where}, though the broker is there", "start 'linguabus serve' there"
        )
        return
    except (OSError, http.client.HTTPException) as error:
        yield failed(
            "orchestrator",
            f"{where}, from where parts of models come, does not answer ({error or type(error).__name__})",
            f"open port {port} in that host's firewall, too, and look whether 'linguabus serve' runs there",
        )
        return
    if answer.status != 200 or answer.body.decode("ascii", "replace").strip() != (address.authority or "").strip():
        yield failed(
            "orchestrator",
            f"{where} is another program, or the orchestrator of another fleet",
            "is 'linguabus serve' of this fleet running there, and nothing else at that port?",
        )
    else:
        yield ok("orchestrator", f"{where} answers")
    yield from _check_clock(answer.headers.get("date"), now())


def _check_clock(told: str | None, now_s: float) -> Iterator[Finding]:
    try:
        skew_s = now_s - email.utils.parsedate_to_datetime(told or "").timestamp()
    except ValueError:
        return  # who says nothing of its clock is not the fleet's
    if abs(skew_s) < SKEW_S:
        yield ok("clock", "as that of the fleet's host")
        return
    said = f"{rough_span(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} that of the fleet's host"
    remedy = "have both set their clocks by the network (date and time: automatic)"
    yield (warning if abs(skew_s) < WRONG_CLOCK_S else failed)("clock", said, remedy)


# --- membership -----------------------------------------------------------------------------------------------


def _check_membership(address: BrokerAddress, role: Role, file: Path | None) -> Finding:
    who = address.username or "anybody"
    try:
        with MqttBus(address, client_id=f"doctor-{secrets.token_hex(8)}") as bus:
            bus.connect(TIMEOUT_S)
    except BrokerRefused as refused:
        if address.authority is None:
            return failed(
                "membership", f"the broker refuses {who}: {refused.reason}", "give another user name and password"
            )
        return failed(
            "membership",
            f"the broker does not know {who}, or its key: {refused.reason}",
            f"was {who} revoked? On the host: linguabus invite {who} --{role}; here: remove {file or 'the credential'},"
            " then paste the line that it prints",
        )
    except BusError as error:
        return failed("membership", str(error), "is that an MQTT broker? Look at its log")
    return ok("membership", f"the broker lets {who} in")
