"""Where a member finds its fleet's host. The host may move: what it says of its addresses is kept in the credential.

It is asked over TLS, and believed because the fleet's authority has signed for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from broker.address import BrokerAddress
from broker.credential import Credential, is_address
from broker.errors import CredentialUnusable
from broker.https import ask
from broker.tls import client_context
from schemas.back_off import back_off_s, out_of_step

PATH = "/v1/addresses"
_ASK_AGAIN_S = 900.0
_AFTER_FAILURE_S = 60.0
_DAY_S = 86_400.0
_log = logging.getLogger(__name__)


class Whereabouts(Collection[str]):
    """The addresses in a credential's file, as they are now: somebody may change them while a member runs."""

    def __init__(self, path: Path, credential: Credential) -> None:
        """``credential``: what the file holds."""
        self._path = path
        self._credential = credential
        self._changed_ns = _changed_ns(path)
        self._moved = threading.Event()

    def broker(self) -> BrokerAddress:
        """The broker, at the addresses that are known now."""
        return self._present().broker()

    def __contains__(self, host: object) -> bool:
        return host in self._present().addresses

    def __iter__(self) -> Iterator[str]:
        return iter(self._present().addresses)

    def __len__(self) -> int:
        return len(self._present().addresses)

    def learn(self) -> bool:
        """Ask the host for its addresses, and keep them; has it answered?"""
        known = self._present()
        for address in known.addresses:
            found = _asked(known, address)
            if found is None:
                continue
            # What answers comes first, even if the host does not know it: it may be behind another one's address.
            known_now = self._present()
            moved = known_now.at(*dict.fromkeys((address, *found, *known_now.addresses)))
            try:
                if moved == known_now:
                    self._path.touch()  # says when it was asked for the last time
                else:
                    moved.save(self._path)
                    _log.info("the fleet's host is at %s now", ", ".join(moved.addresses))
            except OSError as error:
                _log.warning("where the fleet's host is can't be kept: %s", error)
            return True
        return False

    def keep_learning(self) -> None:
        """`learn` now and from time to time, in a thread that ends with the process."""
        threading.Thread(target=self._keep_learning, name="whereabouts", daemon=True).start()

    def ask_soon(self) -> None:
        """Have `keep_learning` ask now: a connection was lost and made again, perhaps to a host that has moved."""
        self._moved.set()

    def learn_daily(self) -> threading.Thread | None:
        """`learn` in a thread, of a command that ends soon; None if that was done not a day ago."""
        if self._changed_ns is None or time.time() - self._changed_ns / 1e9 < _DAY_S:
            return None
        thread = threading.Thread(target=self.learn, name="whereabouts", daemon=True)
        thread.start()
        return thread

    def _keep_learning(self) -> None:
        failures = 0
        while True:
            self._moved.clear()
            failures = 0 if self.learn() else failures + 1
            self._moved.wait(
                out_of_step(back_off_s(_AFTER_FAILURE_S, failures - 1, _ASK_AGAIN_S)) if failures else _ASK_AGAIN_S
            )

    def _present(self) -> Credential:
        changed_ns = _changed_ns(self._path)
        if changed_ns not in (None, self._changed_ns):
            self._changed_ns = changed_ns
            with contextlib.suppress(CredentialUnusable):
                found = Credential.load(self._path)
                # Who joins another fleet, or this one anew, is somebody else, and begins anew.
                if found and replace(found, addresses=self._credential.addresses) == self._credential:
                    self._credential = found
        return self._credential


def _changed_ns(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _asked(member: Credential, address: str) -> list[str] | None:
    """What the host at an address says of its addresses; None: it is not there, or says nothing."""
    try:
        status, body, _ = ask(
            address, member.http_port, client_context(member.authority), "GET", PATH,
            headers={"Authorization": member.broker().authorization},
        )  # fmt: skip
        found = json.loads(body)["addresses"] if status == http.client.OK else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
        _log.debug("%s does not say where the fleet's host is: %s", address, error)
        return None
    if not isinstance(found, list) or not found or not all(is_address(one) for one in found):
        return None
    return found
