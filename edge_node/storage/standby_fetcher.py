"""Standby units: blobs fetched in the background, so that layers can come over without a download.

Nothing waits for them, and they wait for everything: no transfer while a segment is loaded or a prompt is computed,
nothing is deleted for them that anybody needs, and they leave others half of the time on the link.
"""

from __future__ import annotations

import logging
import threading
import time

from edge_node.errors import LoadCancelled, NodeError
from edge_node.storage.blob_store import BlobStore
from schemas.back_off import back_off_s, out_of_step
from schemas.messages import KeepBlobs

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0
_LONGEST_REST_S = 0.1


class StandbyFetcher:
    """Fetches standby blobs in a thread of its own. Its methods are for the thread that owns the bus."""

    def __init__(self, store: BlobStore, *, first_pause_s: float = _FIRST_PAUSE_S) -> None:
        self._store = store
        self._first_pause_s = first_pause_s
        self._lists: dict[str, KeepBlobs] = {}
        self._changed = threading.Event()
        self._allowed = threading.Event()
        self._thread: threading.Thread | None = None
        self._resumed_s = 0.0

    def keep(self, message: KeepBlobs) -> None:
        """Have these blobs on disk, in their order, instead of what the pipeline wanted before."""
        self._store.stand_by(message.pipeline, message.blobs)
        self._lists = {**self._lists, message.pipeline: message}
        self._changed.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="standby", daemon=True)
            self._thread.start()

    def allow(self, allowed: bool) -> None:
        """Say whether now is a good moment to fetch; nothing is fetched before this is called."""
        if not allowed:
            self._allowed.clear()
        elif not self._allowed.is_set():
            self._allowed.set()

    def _run(self) -> None:
        failures, said = 0, ""
        while True:
            pause_s = self._pause_s(failures) if failures else None
            if self._changed.wait(pause_s):
                self._changed.clear()
                failures, said = 0, ""
            problem = next((found for message in self._lists.values() if (found := self._fetch(message))), "")
            failures = failures + 1 if problem else 0
            if problem and problem != said:
                said = problem
                _log.warning("standby units are not complete: %s (tried again, not logged again)", problem)

    def _pause_s(self, failures: int) -> float:
        return out_of_step(back_off_s(self._first_pause_s, failures - 1, _LONGEST_PAUSE_S))

    def _fetch(self, message: KeepBlobs) -> str:
        """Fetch the blobs of a list; returns what is wrong, empty when all are here or another list has come."""
        for blob in message.blobs:
            while not self._changed.is_set():
                self._allowed.wait()
                self._resumed_s = time.monotonic()
                try:
                    self._store.fetch([blob], message.blob_urls, on_progress=self._go_on, background=True)
                    break
                except LoadCancelled:
                    continue
                except (NodeError, OSError) as error:
                    return str(error)
        return ""

    def _go_on(self, _done_bytes: int, _total_bytes: int) -> None:
        """Rest as long as the last piece took; end the transfer where something else comes first."""
        self._changed.wait(min(time.monotonic() - self._resumed_s, _LONGEST_REST_S))
        if self._changed.is_set() or not self._allowed.is_set():
            raise LoadCancelled("something else comes first")
        self._resumed_s = time.monotonic()
