"""The runner of a node's segments: loads them in the background, hands them their work, gives their memory back."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from broker import heap
from edge_node.effects import CopyPrefix, SendKvRows, UnloadSegment, WriteKvRows
from edge_node.errors import LoadCancelled, NodeError, SegmentUnusable, WrongAnswers, failure_code, reason_of
from edge_node.runtime import process_heap
from edge_node.runtime.draft_model import DraftModel
from edge_node.runtime.execute import execute
from edge_node.runtime.fast_decode_runner import FastDecodeRunner
from edge_node.runtime.known_answers import SelfCheck
from edge_node.runtime.load_limits import memory_fence, time_limit
from edge_node.runtime.provider_choice import ProviderChoice
from edge_node.runtime.segment import Segment
from edge_node.runtime.session import CPU
from edge_node.runtime.unloaded_segments import UnloadedSegments
from edge_node.stage.decode_fast_path import DecodeFastPath
from edge_node.stage_spec import SegmentSpec, StageKey, StageSpec
from edge_node.storage.blob_store import BlobStore
from edge_node.work import Computed, Drafted, DraftWork, Work
from schemas.messages import BlobRef, LoadFailureCode

_log = logging.getLogger(__name__)
_PROGRESS_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Loaded:
    """A segment was opened."""

    key: StageKey
    downloaded_bytes: int
    load_s: float
    kv_value_bytes: int
    """Size of an element of the KV cache."""
    draft_failure: str = ""
    """Why its draft model can't be used."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """A segment can't be opened."""

    key: StageKey
    reason: str
    code: LoadFailureCode


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a download is."""

    key: StageKey
    done_bytes: int
    total_bytes: int


LoadEvent = Loaded | LoadFailed | LoadProgress


class SegmentRunner:
    """Loads and runs the segments of this node.

    Each segment is loaded by a thread of its own, one after the other: two downloads would write to the same files, and
    two graphs being opened at once need the memory of both peaks. Everything else happens in the caller's thread.
    """

    def __init__(
        self,
        store: BlobStore,
        *,
        threads: int,
        emulated_speed: float,
        on_load_event: Callable[[], None],
        memory_bytes: int | None = None,
        providers: ProviderChoice | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            store: of the segments' files.
            threads: that compute.
            emulated_speed: of the device.
            on_load_event: is called by another thread when there is an event.
            memory_bytes: what this node may use; what a plan without a figure for its memory goes by.
            providers: chooses ONNX Runtime's execution provider; None: the CPU.
        """
        self._providers = providers
        self.events: queue.SimpleQueue[LoadEvent] = queue.SimpleQueue()
        self._store = store
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._emulated_speed = emulated_speed
        self._on_load_event = on_load_event
        self._segments: dict[StageKey, Segment] = {}
        self._drafts: dict[StageKey, DraftModel] = {}
        self._self_checks: dict[Segment, SelfCheck] = {}
        self.fast_runners: dict[DecodeFastPath, FastDecodeRunner] = {}
        """The runners of fast paths that had a step; ``fast_runner`` makes one that is missing."""
        self._wanted: set[StageKey] = set()
        self._loading = threading.Lock()
        self.unloaded = UnloadedSegments()
        """Those whose memory is about to be given back."""

    def load(self, spec: StageSpec, *, heir_of: StageKey | None = None, same_segment: bool = False) -> None:
        """Begin to download and open a segment; ``events`` tells how it goes.

        Args:
            heir_of: a segment to share KV buffers with.
            same_segment: ``heir_of`` is the very segment that is wanted.
        """
        key = spec.key
        old = None if heir_of is None else self._segments[heir_of]
        self._wanted.add(key)
        self._store.use(key, spec.files)
        draft = self._draft_like(spec)
        if old and same_segment and (draft or not spec.draft):
            self._segments[key] = old
            if draft:
                self._drafts[key] = draft
            self._post(Loaded(key, 0, 0.0, old.kv.value_bytes))
            return
        arguments = (spec, old, same_segment)
        threading.Thread(target=self._load, args=arguments, name=f"load-{spec.epoch}", daemon=True).start()

    def _draft_like(self, spec: StageSpec) -> DraftModel | None:
        """The draft model that a stage wants, if another stage has it."""
        return next((draft for draft in list(self._drafts.values()) if draft.segment.spec == spec.draft), None)

    def emulate(self, speed: float) -> None:
        """Behave like a device of another relative speed from the next run on."""
        self._emulated_speed = speed
        for segment in [*self._segments.values(), *(draft.segment for draft in list(self._drafts.values()))]:
            segment.emulate(speed)

    @property
    def is_loading(self) -> bool:
        """Is a segment being loaded?"""
        return any(key not in self._segments for key in self._wanted)

    def _post(self, event: LoadEvent) -> None:
        self.events.put(event)
        self._on_load_event()

    def _load(self, spec: StageSpec, old: Segment | None, same_segment: bool) -> None:
        started_s = time.monotonic()
        try:
            with self._loading:
                self.unloaded.free()
                segment, downloaded_bytes = self._open(spec, old, same_segment)
                draft, failure = self._open_draft(spec)
        except LoadCancelled:
            _log.info("loading the segment of epoch %s was cancelled", spec.epoch)
        except Exception as error:  # out of memory, full disk, ...: the orchestrator must hear of it
            if not isinstance(error, NodeError):
                _log.exception("segment of epoch %s can't be loaded", spec.epoch)
            self._post(LoadFailed(spec.key, reason_of(error), failure_code(error)))
        else:
            self._segments[spec.key] = segment
            if draft:
                self._drafts[spec.key] = draft
            took_s = time.monotonic() - started_s
            self._post(Loaded(spec.key, downloaded_bytes, took_s, segment.kv.value_bytes, failure))

    def _open(self, spec: StageSpec, old: Segment | None, same_segment: bool) -> tuple[Segment, int]:
        """Download and open; returns the segment and the number of bytes fetched, the draft model's too."""
        last_report_s = 0.0

        def report(done_bytes: int, total_bytes: int) -> None:
            nonlocal last_report_s
            if spec.key not in self._wanted:
                raise LoadCancelled(f"epoch {spec.epoch} was released")
            if time.monotonic() - last_report_s >= _PROGRESS_INTERVAL_S:
                last_report_s = time.monotonic()
                self._post(LoadProgress(spec.key, done_bytes, total_bytes))

        downloaded_bytes = self._store.fetch(spec.files, spec.blob_urls, on_progress=report)
        if old and same_segment:
            return old, downloaded_bytes
        with self._fenced(spec, spec.segment.files) as planned_bytes:
            return self._opened(spec.segment, old, planned_bytes), downloaded_bytes

    @contextmanager
    def _fenced(self, spec: StageSpec, files: Sequence[BlobRef]) -> Iterator[int | None]:
        """Have what is opened take no more than was planned for the stage's node, which is given, and leave nothing
        behind that it took on the way. ``files``: that may be mapped meanwhile."""
        planned_bytes = spec.planned_bytes or self._memory_bytes
        with memory_fence.around(planned_bytes, sum(blob.size_bytes for blob in files)):
            yield planned_bytes
        heap.trim()
        process_heap.let_go_of_file_pages(self._store.directory)

    def _open_draft(self, spec: StageSpec) -> tuple[DraftModel | None, str]:
        """Open a stage's draft model; returns it or, if it can't be used, why. No stage has to do without it."""
        draft = self._draft_like(spec)
        if draft or not spec.draft:
            return draft, ""
        try:
            with self._fenced(spec, spec.files) as planned_bytes:
                opened = self._tried(CPU, spec.draft, None, planned_bytes, packs_corrections=True)
                return DraftModel(opened), ""
        except NodeError as error:
            _log.warning("the draft model of epoch %s can't be used: %s", spec.epoch, error)
            return None, reason_of(error)

    def _opened(self, spec: SegmentSpec, old: Segment | None, planned_bytes: int | None) -> Segment:
        """Open a segment and have it run, by the CPU if another provider was no good after all."""
        if self._providers is None:
            return self._opened_by(CPU, spec, old, planned_bytes)
        room_bytes = None if self._memory_bytes is None else self._memory_bytes - (planned_bytes or 0)
        provider = self._providers.for_segment(spec, self._store, room_bytes)
        try:
            return self._opened_by(provider, spec, old, planned_bytes)
        except (SegmentUnusable, WrongAnswers) as error:
            if provider == CPU:
                raise
            self._providers.failed(provider, spec, str(error))
        return self._opened_by(CPU, spec, old, planned_bytes)

    def _opened_by(self, provider: str, spec: SegmentSpec, old: Segment | None, planned_bytes: int | None) -> Segment:
        # Without a known answer nobody would notice that packed corrections made others wrong.
        return self._tried(provider, spec, old, planned_bytes, packs_corrections=spec.answer is not None)

    def _tried(
        self,
        provider: str,
        spec: SegmentSpec,
        old: Segment | None,
        planned_bytes: int | None,
        *,
        packs_corrections: bool,
    ) -> Segment:
        segment = self._checked(provider, spec, old, planned_bytes, packs_corrections)
        if segment is None:  # and its memory free again: there may be no room for two
            heap.give_back()
            segment = self._checked(provider, spec, old, planned_bytes, packs_corrections=False)
        assert segment is not None
        return segment

    def _checked(
        self, provider: str, spec: SegmentSpec, old: Segment | None, planned_bytes: int | None, packs_corrections: bool
    ) -> Segment | None:
        """Open a segment and have it run, and answer what it has an answer for.

        Returns:
            None if that went wrong with corrections in packed weights.
        """
        with heap.trimming():
            segment = Segment(
                spec,
                self._store.path(spec.graph.sha256),
                threads=self._threads,
                emulated_speed=self._emulated_speed,
                heir_of=old,
                limit_bytes=planned_bytes,
                provider=provider,
                packs_corrections=packs_corrections,
            )
        check = None
        try:
            with time_limit(segment):
                if spec.answer is None:
                    segment.warm_up()
                else:  # to answer warms it up, too
                    segment.choose_runs()
                    check = SelfCheck(segment, self._store.path(spec.answer.sha256))
        except (SegmentUnusable, WrongAnswers) as error:
            if not segment.has_packed_corrections:
                raise
            # Its text: the error has the segment in its traceback, and records may be kept.
            _log.warning("%s; so corrections are not packed", str(error))
            return None
        if check:
            self._self_checks[segment] = check
        return segment

    def wrong_answers(self) -> list[LoadFailed]:
        """Have every segment answer its known input again, and return those that are wrong now, by stage."""
        failed = {}
        for segment, check in list(self._self_checks.items()):  # another thread may add one
            try:
                check.repeat()
            except NodeError as error:
                failed[segment] = error
        return [
            LoadFailed(key, reason_of(failed[segment]), failure_code(failed[segment]))
            for key, segment in list(self._segments.items())
            if segment in failed
        ]

    def apply(self, effect: UnloadSegment | CopyPrefix | WriteKvRows) -> None:
        """Do what an effect says."""
        match effect:
            case UnloadSegment():
                self.unload(effect.key)
            case CopyPrefix():
                self.copy_prefix(effect)
            case WriteKvRows():
                self.write_kv_rows(effect)

    def unload(self, key: StageKey) -> None:
        """Forget a segment, whose memory is given back a moment later; if it is being downloaded, stop that."""
        self._wanted.discard(key)
        self._store.use(key, ())
        self._forget_fast_runners(key)  # they keep the segment in memory
        segment = self._segments.pop(key, None)
        if segment is not None and segment not in self._segments.values():  # the next epoch may have it, too
            self._self_checks.pop(segment, None)
            self.unloaded.add(segment)
        draft = self._drafts.pop(key, None)
        if draft is not None and draft not in self._drafts.values():
            self.unloaded.add(draft.segment)

    def copy_prefix(self, copy: CopyPrefix) -> None:
        """Copy KV rows between slots."""
        self._segments[copy.key].copy_prefix(copy.source, copy.target, copy.count, copy.copies)

    def forget_rows(self, slots: Mapping[StageKey, Collection[int]]) -> None:
        """Give back the memory of slots that hold nothing."""
        for key, free in slots.items():
            self._segments[key].kv.forget(free)
            if key in self._drafts:
                self._drafts[key].forget(free)

    def kv_rows(self, message: SendKvRows) -> bytes:
        """The frames of a message of KV rows."""
        segment = self._segments[message.key]
        is_state = message.blocks[0].copy is not None
        return segment.states.read(message) if is_state else segment.kv.read(message)

    def write_kv_rows(self, rows: WriteKvRows) -> None:
        """Take KV rows in that arrived."""
        segment = self._segments[rows.key]
        (segment.kv if rows.copy is None else segment.states).write(rows)

    def fast_runner(self, fast_path: DecodeFastPath) -> FastDecodeRunner:
        """Make a runner for the steps of a fast path, in place of that of any earlier fast path of its slot."""
        self._forget_fast_runners(fast_path.key, fast_path.slot)
        self.fast_runners[fast_path] = fast_runner = FastDecodeRunner(self._segments[fast_path.key], fast_path.slot)
        return fast_runner

    def _forget_fast_runners(self, key: StageKey, slot: int | None = None) -> None:
        for path in [path for path in self.fast_runners if path.key == key and slot in (None, path.slot)]:
            del self.fast_runners[path]

    def run(self, work: Work) -> Computed:
        """Do one run."""
        return execute(self._segments[work.key], work)

    def run_draft(self, work: DraftWork) -> Drafted:
        """Do one run of a stage's draft model."""
        return self._drafts[work.key].run(work, vocab_size=self._segments[work.key].spec.vocab_size)
