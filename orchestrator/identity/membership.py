"""Keeps what depends on a fleet's members up to date while it is served: the broker's files, the servers' certificate.

Whoever changes the register, in this process or another, the broker knows within a second.
"""

from __future__ import annotations

import logging
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from broker.address import bracketed
from broker.tls import server_context
from orchestrator.errors import StateUnreadable
from orchestrator.identity.broker_files import tell_broker, write_broker_files
from orchestrator.identity.enrolment import Enrolment
from orchestrator.identity.fleet_folder import FleetFolder
from orchestrator.identity.register import Register
from schemas.closing import Closing
from schemas.roles import Role, with_article

_LOOK_S = 0.25
"""A revoked member is gone within two seconds."""
_RENEW_S = 60.0
"""Members that learn of an address of this machine are to find it in the certificate."""
_SEEN_S = 30.0
_AFTER_FAILURE_S = 5.0
_log = logging.getLogger(__name__)


class Membership(Closing):
    """A fleet as it is being served. A context manager."""

    def __init__(self, fleet: FleetFolder, addresses: Callable[[], Sequence[str]]) -> None:
        """Have all files as they should be.

        Args:
            addresses: of this machine, as members may know it.

        Raises:
            StateUnreadable: the register or the authority can't be used.
            OSError: the broker's files can't be written.
        """
        self.fleet = fleet
        self._addresses = addresses
        self._register = fleet.register()
        self._gate = fleet.register()
        self._shown = fleet.register()
        """Of the thread that looks for changes: those of the others are news to it."""
        fleet.renew_server(addresses())
        write_broker_files(fleet, self._shown)
        self._version = self._shown.version
        self.tls: ssl.SSLContext = server_context(fleet.server_file)
        """For the orchestrator's server; gets new certificates as they are made."""
        self.on_certificate: Callable[[Path], None] = self._load
        """Is given the file of a new certificate, for a server that is running."""
        self.enrolment = Enrolment(fleet, self._register, addresses, lambda: self._apply(self._register))
        self._members = _members(self._shown)
        """Role and hash of the key by name. Replaced, never changed: other threads read it."""
        self._invited = self._shown.invited()
        self.on_gone: Callable[[str], None] = lambda _: None
        """Is given the name of each member that is revoked, in another thread than the one that serves."""
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._applying = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop looking. Idempotent."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for register in (self._register, self._gate, self._shown):
            register.close()

    def addresses(self) -> tuple[str, ...]:
        """Where members find this host now, the best first."""
        return self.fleet.addresses(self._addresses())

    def urls(self, port: int) -> tuple[str, ...]:
        """Where members find the orchestrator's server, the best first."""
        # The one of a network of containers first: others' nodes pass it over without a look, as they do not know it.
        inside = filter(None, [self.fleet.settings.inside])
        hosts = dict.fromkeys((*inside, *self.addresses()))
        return tuple(f"https://{bracketed(host)}:{port}" for host in hosts)

    def admits(self, name: str, key: str) -> bool:
        """Is this a member's key?"""
        return self._gate.admits(name, key)

    def is_member(self, name: str) -> bool:
        """Is somebody of this name a member? For any thread."""
        return name in self._members

    def end(self, name: str) -> None:
        """End a membership, as its member wishes; who has to know hears of it in a moment.

        Raises:
            UnknownMember: it has ended already.
            OwnMember: it is one of the host's own.
        """
        self.fleet.check_revocable(name)
        with self.fleet.register() as register:  # of its own, so that the change is news to the others
            register.revoke(name)

    def door(self, at_s: float) -> tuple[float, ...]:
        """When each invitation ends that is good at this time, in seconds since 1970. For any thread."""
        return tuple(one.open_until for one in self._invited if one.open_until > at_s)

    def saw(self, name: str) -> None:
        """Note that somebody of this name was heard."""
        self._seen.add(name)

    def _load(self, file: Path) -> None:
        self.tls.load_cert_chain(file)

    def _run(self) -> None:
        renew_due_s = time.monotonic() + _RENEW_S
        seen_due_s = time.monotonic() + _SEEN_S
        while not self._over.wait(_LOOK_S):
            try:
                now_s = time.monotonic()
                if now_s >= renew_due_s:
                    renew_due_s = now_s + _RENEW_S
                    if self.fleet.renew_server(self._addresses()):
                        self.on_certificate(self.fleet.server_file)
                        self._apply(self._shown)
                if now_s >= seen_due_s:
                    seen_due_s = now_s + _SEEN_S
                    seen, self._seen = self._seen, set()
                    self._shown.saw(sorted(seen))
                version = self._shown.version
                if version != self._version:
                    self._apply(self._shown)
                    self._invited = self._shown.invited()
                    self._version = version
            except (OSError, sqlite3.Error, StateUnreadable) as error:
                _log.error("members are not kept up to date, and it is tried again: %s", error)
                self._over.wait(_AFTER_FAILURE_S)

    def _apply(self, register: Register) -> None:
        """Have the broker know of a change, and first of all those who have to do with who is gone."""
        with self._applying:
            before, self._members = self._members, _members(register)
            _tell_changes(before, self._members)
            for name in sorted(before.keys() - self._members.keys()):
                self.on_gone(name)
            if not write_broker_files(self.fleet, register):
                return
            if tell_broker(self.fleet):
                _log.info("the broker knows of a change of members")
            else:
                _log.warning(
                    "have the broker read %s again: members have changed (mosquitto does on SIGHUP)",
                    self.fleet.broker_folder,
                )


def _members(register: Register) -> dict[str, tuple[Role, str]]:
    return {name: (role, key_hash) for name, role, key_hash in register.key_hashes()}


def _tell_changes(before: Mapping[str, tuple[Role, str]], after: Mapping[str, tuple[Role, str]]) -> None:
    """A line for each member that is new, gone, or has another key; as warnings, so that each log has them."""
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            _log.warning("%s is no member any more", name)
        elif name not in before:
            _log.warning("%s has joined as %s", name, with_article(after[name][0]))
        elif after[name] != before[name]:
            _log.warning("%s has joined again, with another key, as %s", name, with_article(after[name][0]))
