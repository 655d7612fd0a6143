"""Which execution provider of the installed ONNX Runtime computes a segment.

The CPU does, unless another one has been tried, and was both right and quicker.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort

from broker.private_file import write_private
from edge_node.runtime.provider_trial import Found, Trial, run_trial
from edge_node.runtime.session import CPU
from edge_node.stage_spec import SegmentSpec
from edge_node.storage.blob_store import BlobStore

FILE = "providers.json"
QUICKER_SHARE = 0.9
"""A step has to take less than this share of the CPU's."""
_ELSEWHERE = frozenset({"AzureExecutionProvider"})
"""Those that send what they are given to other machines."""
_UNFINISHED = "the node ended while it was tried"
_USED = ""

_log = logging.getLogger(__name__)


class ProviderChoice:
    """Chooses providers, and keeps in the node's home what was found: "" for one that is used, or why it is not."""

    def __init__(
        self,
        home: Path,
        wanted: Sequence[str] | None,
        *,
        threads: int,
        installed: Sequence[str] | None = None,
        run: Callable[[Trial], Found] = run_trial,
    ) -> None:
        """``wanted``: those that may be tried, all that are installed if None."""
        there = ort.get_available_providers() if installed is None else installed
        self._candidates = [name for name in there if name != CPU and name not in _ELSEWHERE]
        if wanted is not None:
            self._candidates = [name for name in self._candidates if name in wanted]
        self._path = home / FILE
        self._threads = threads
        self._run = run
        self._told: set[tuple[str, str]] = set()

    def for_segment(self, spec: SegmentSpec, store: BlobStore, room_bytes: int | None) -> str:
        """The provider for a segment whose files are here.

        Args:
            spec: the segment.
            store: where its files are.
            room_bytes: memory that a trial may take beside the node; None: as much as it wants.
        """
        if spec.answer is None or spec.same_bits:  # nothing to compare with, or no other rounding is wanted
            return CPU
        needed_bytes = sum(blob.size_bytes for blob in spec.files)
        for provider in self._candidates:
            verdict = self._kept().get(key := self._key(provider, spec))
            if verdict is None:
                if room_bytes is not None and 2 * needed_bytes > room_bytes:
                    self._tell(provider, "there is no memory to try it")
                    continue
                self._keep(key, _UNFINISHED)  # if the try ends the node, it is the last one
                trial = Trial(
                    provider, spec, store.path(spec.graph.sha256), store.path(spec.answer.sha256), self._threads
                )
                verdict = judge(self._run(trial))
                self._keep(key, verdict)
            if verdict == _USED:
                self._tell(provider, "used: it is right, and quicker than the CPU")
                return provider
            self._tell(provider, f"not used: {verdict}")
        return CPU

    def failed(self, provider: str, spec: SegmentSpec, reason: str) -> None:
        """Note that a provider was no good for a segment after all."""
        self._keep(self._key(provider, spec), reason)
        self._tell(provider, f"not used: {reason}")

    def _key(self, provider: str, spec: SegmentSpec) -> str:
        return f"{provider}, ONNX Runtime {ort.__version__}, {self._threads} threads, {spec.graph.sha256}"

    def _tell(self, provider: str, what: str) -> None:
        if (provider, what) not in self._told:
            self._told.add((provider, what))
            _log.info("execution provider %s: %s", provider, what)

    def _kept(self) -> dict[str, str]:
        try:
            kept = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(kept, dict):
            return {}
        return {key: verdict for key, verdict in kept.items() if isinstance(verdict, str)}

    def _keep(self, key: str, verdict: str) -> None:
        with contextlib.suppress(OSError):
            write_private(self._path, json.dumps({**self._kept(), key: verdict}))


def judge(found: Found) -> str:
    """Why a provider is not used; empty if it is."""
    if found.failure:
        return found.failure
    if found.provider_s < QUICKER_SHARE * found.cpu_s:
        return _USED
    return f"a step takes it {found.provider_s * 1e3:.2f} ms, the CPU {found.cpu_s * 1e3:.2f} ms"
