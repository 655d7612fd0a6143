"""The profiler: a node measures itself with the model's own units, and its link with the model's own activations.

The link is measured by the thread that owns the bus, one echo after the other; then a thread of its own downloads and
runs small segments beside whatever the node serves. Nothing waits for either.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from edge_node.errors import NodeError, failure_code, reason_of
from edge_node.stage_spec import SegmentSpec
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device
from edge_node.telemetry.link_probe import LinkProbe
from edge_node.telemetry.unit_benchmark import measure_parts
from schemas.messages import NodeProfile, ProbeNode

_log = logging.getLogger(__name__)


class Profiler:
    """Answers ``command.probe``. All methods are for the thread that owns the bus."""

    def __init__(
        self,
        store: BlobStore,
        *,
        node: str,
        incarnation: int,
        threads: int,
        emulated_speed: float,
        wake: Callable[[], None],
        memory_bytes: int | None = None,
    ) -> None:
        self._store = store
        self._blank = NodeProfile(node=node, incarnation=incarnation, fingerprint="")
        self._threads = threads
        self._speed = emulated_speed
        self._memory_bytes = memory_bytes
        self._wake = wake
        self._command: ProbeNode | None = None
        self._started_s = 0.0
        self._link: LinkProbe | None = None
        self._refusals: list[NodeProfile] = []
        self._answers: queue.SimpleQueue[NodeProfile] = queue.SimpleQueue()
        self._only_probed: set[str] = set()
        """Blobs that are here for the measurement alone, as far as is known."""
        self._wanted: set[str] = set()

    def start(self, command: ProbeNode, *, busy: bool, max_message_bytes: int) -> None:
        """Begin to measure, unless requests are open (``busy``) or a measurement goes on.

        ``max_message_bytes``: what the broker passes on for this node.
        """
        if self._command is not None or busy:
            reason = "it measures itself already" if self._command else "it serves requests"
            self._refusals.append(replace(self._blank, fingerprint=command.fingerprint, failure=reason))
            return
        self._command = command
        self._started_s = time.monotonic()
        self._link = LinkProbe(command.width, command.wire_dtype, max_message_bytes)

    @property
    def measures_link(self) -> bool:
        """Is an echo of the measurement on its way, or due?"""
        return self._link is not None

    def link_messages(self) -> Iterable[bytes]:
        """The next echoes to publish to oneself."""
        link = self._link
        if link is None:
            return ()
        if link.done:
            self._link = None
            threading.Thread(target=self._measure, args=(link.figures(),), name="profile", daemon=True).start()
            return ()
        message = link.next_message()
        return () if message is None else (message,)

    def echo(self, payload: bytes) -> None:
        """An echo came back."""
        if self._link is not None:
            self._link.echo(payload)

    def finished(self) -> Iterable[NodeProfile]:
        """Take the answers that are to be sent."""
        answers, self._refusals = self._refusals, []
        while not self._answers.empty():
            answers.append(self._answers.get())
            self._command = None
        return answers

    def wanted(self, spec: SegmentSpec) -> None:
        """Note that a segment needs its blobs, so that they stay."""
        self._wanted |= {blob.sha256 for blob in spec.files}

    def plan_committed(self) -> None:
        """Delete what only the measurement needed, now that a plan is in force; one that goes on still needs it."""
        if self._command is not None:  # planned without it, as it took too long: without its files it would fail
            return
        for sha256 in self._only_probed - self._wanted:
            if not self._store.is_standby(sha256):
                self._store.path(sha256).unlink(missing_ok=True)
        self._only_probed.clear()

    def _measure(self, link: dict[str, float]) -> None:
        command = self._command
        assert command
        answer = replace(self._blank, fingerprint=command.fingerprint, **link)  # type: ignore[arg-type]
        try:
            for part in command.parts:
                blobs = (part.graph, *part.blobs)
                self._only_probed |= {blob.sha256 for blob in blobs if not self._store.path(blob.sha256).exists()}
                self._store.fetch(blobs, command.blob_urls, on_progress=lambda *_: None)
            units = measure_parts(command, self._store, self._threads, self._speed, self._memory_bytes)
            answer = replace(
                answer,
                units=units,
                available_bytes=device.available_bytes(),
                storage_bytes=self._store.limit_bytes,
            )
        except NodeError as error:
            answer = replace(answer, failure=reason_of(error), code=failure_code(error))
        except Exception as error:  # the orchestrator must hear of it, whatever it was
            _log.exception("measuring %s failed", command.model)
            answer = replace(answer, failure=reason_of(error))
        self._answers.put(replace(answer, took_s=time.monotonic() - self._started_s))
        self._wake()
