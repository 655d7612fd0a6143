"""Segments and the runner over a real ONNX model: split against unsplit, loading, releasing, failing."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import itertools
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.config import NodeConfig
from edge_node.effects import KvBlock, SendKvRows, WriteKvRows
from edge_node.errors import SegmentUnusable
from edge_node.requests.ring_driver import chunk_lengths
from edge_node.runtime import unloaded_segments
from edge_node.runtime.segment import Segment
from edge_node.runtime.segment_runner import Loaded, LoadEvent, LoadFailed, LoadProgress, SegmentRunner
from edge_node.stage_spec import StageSpec
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device
from edge_node.work import Draw, Row, RowResult, Work
from orchestrator.model.assemble import assemble
from orchestrator.model.graph import read_model, resolve
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.model import GRAPH_FILE, Model
from orchestrator.model.split import plan_split
from schemas.codec import Dtype, Frame, Kind, decode_frames, unpack_kv_header
from schemas.messages import BlobRef, Epoch, PrepareSegment, Sampling, StageRef
from tests.support.polling import DEADLINE_S
from tests.support.ring import even_cuts

PROMPT = list(range(7, 40))
"""33 ids: chunks of 16 would leave one alone."""
EPOCH = Epoch(generation=1, counter=1)


def specification(model: Model, cuts: Sequence[int], stage: int, **changes: Any) -> StageSpec:
    """One stage of a split at ``cuts``, as the orchestrator would ask for it."""
    segment = model.segment(cuts[stage], cuts[stage + 1])
    fields: dict[str, Any] = {
        "pipeline": "main",
        "epoch": EPOCH,
        "stage": stage,
        "ring": tuple(
            StageRef(node=f"node{index}", start=start, stop=stop)
            for index, (start, stop) in enumerate(itertools.pairwise(cuts))
        ),
        "model": model.manifest.name,
        "graph": BlobRef(sha256=segment.graph.sha256, size_bytes=segment.graph.size_bytes),
        "blobs": tuple(BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in segment.blobs),
        "blob_urls": ("http://127.0.0.1:9/blobs",),
        "kv_layers": tuple(kv.as_told() for kv in model.manifest.layers if kv.layer in segment.layers),
        "width_in": segment.width_in or 0,
        "width_out": segment.width_out or 0,
        "vocab_size": model.manifest.vocab_size,
        "context_tokens": 64,
        "slots": 3,
        "chunk_tokens": 16,
        "same_bits": model.manifest.numerics.same_bits,
        "wire_dtype": "fp32",
        "planned_bytes": 0,
    }
    return StageSpec.of(PrepareSegment(**(fields | changes)))


class Chain:
    """All stages of a split in this process, hidden states handed over as they are."""

    def __init__(self, model: Model, stages: int, **options: Any) -> None:
        cuts = even_cuts(model.manifest.num_units, stages)
        self.segments = []
        for stage in range(stages):
            spec = specification(model, cuts, stage).segment
            self.segments.append(Segment(spec, model.blobs_folder / spec.graph.sha256, threads=1, **options))

    def run(self, slot: int, position: int, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits (vocabulary,) of the last id."""
        self.segments[0].ids_input(len(ids))[...] = ids
        output = self.segments[0].run(slot, [position], len(ids)).output
        for segment in self.segments[1:]:
            segment.take_in(output.tobytes(), Dtype.FP32, len(ids))
            output = segment.run(slot, [position], len(ids)).output
        assert output.shape == (1, self.segments[0].spec.vocab_size)
        return output[0].copy()

    def generate(self, slot: int, prompt: Sequence[int], count: int) -> Iterator[NDArray[np.float32]]:
        """Logits of every step of a greedy answer."""
        position = 0
        for length in chunk_lengths(len(prompt), 16):
            logits = self.run(slot, position, prompt[position : position + length])
            position += length
        for _ in range(count):
            yield logits
            logits = self.run(slot, position, [int(logits.argmax())])
            position += 1


def test_split_equals_unsplit_to_the_bit(tiny_model: Model) -> None:
    whole = list(Chain(tiny_model, 1).generate(0, PROMPT, 20))
    for stages in (2, 3):
        split = list(Chain(tiny_model, stages).generate(1, PROMPT, 20))
        assert all((a == b).all() for a, b in zip(whole, split, strict=True))
    assert len({int(logits.argmax()) for logits in whole}) > 3, "the model says something"


def test_a_graph_that_sums_a_mask_gives_the_same(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """As decoders whose blocks use the mask for something else, too."""
    stop = tiny_model.manifest.num_units
    spec = specification(tiny_model, [0, stop], 0).segment
    usual = Segment(spec, tiny_model.blobs_folder / spec.graph.sha256, threads=1)
    monkeypatch.setattr("orchestrator.model.assemble.LENGTHS", {})
    plan = plan_split(resolve(read_model(tiny_model.folder / GRAPH_FILE), tiny_model.blobs_folder))
    path = tiny_model.blobs_folder / "with-a-mask"
    path.write_bytes(assemble(plan, 0, stop))
    masked = Segment(spec, path, threads=1)
    path.unlink()
    for slot, positions, count in ((0, [0], 9), (1, [0], 5), (0, [9, 5], 1), (0, [10], 1)):
        outputs = []
        for segment in (usual, masked):
            segment.ids_input(len(positions) * count)[...] = PROMPT[: len(positions) * count]
            outputs.append(segment.run(slot, positions, count).output.copy())
        assert (outputs[0] == outputs[1]).all()


def test_slots_are_independent_and_used_again(tiny_model: Model) -> None:
    chain = Chain(tiny_model, 2)
    prompts = [PROMPT, PROMPT[5:25], PROMPT[3:10]]
    alone = [list(chain.generate(0, prompt, 6)) for prompt in prompts]
    answers: list[list[NDArray[np.float32]]] = [[], [], []]
    running = [chain.generate(slot, prompt, 6) for slot, prompt in enumerate(prompts)]
    for _ in range(6):
        for answer, steps in zip(answers, running, strict=True):
            answer.append(next(steps))
    for one, other in zip(alone, answers, strict=True):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_a_position_may_be_computed_again(tiny_model: Model) -> None:
    """As after a replay: rows are written over, what comes later is not seen."""
    chain = Chain(tiny_model, 2)
    for position in (0, 16):
        first = chain.run(0, position, PROMPT[position : position + 16])
    chain.run(0, 32, [5])
    again = chain.run(0, 16, PROMPT[16:32])
    assert (first == again).all()


def test_the_whole_context_can_be_used(tiny_model: Model) -> None:
    chain = Chain(tiny_model, 2)
    for position in range(0, 64, 16):
        logits = chain.run(2, position, list(range(position, position + 16)))
    assert np.isfinite(logits).all()


def test_an_emulated_speed_takes_longer_and_computes_the_same(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is (1 / speed - 1) x the CPU time of the run, told to ``sleep`` here instead of slept."""
    chain = Chain(tiny_model, 1)
    expected = chain.run(0, 0, PROMPT[:16])
    slow = Chain(tiny_model, 1, emulated_speed=0.25)
    waits_s: list[float] = []
    clock_s = iter([10.0, 10.5])
    monkeypatch.setattr(time, "sleep", waits_s.append)
    slow.segments[0]._clock = lambda: next(clock_s)
    assert (slow.run(0, 0, PROMPT[:16]) == expected).all()
    assert waits_s == [pytest.approx(1.5)]


def test_emulation_slows_by_its_factor(tiny_model: Model) -> None:
    slow = Chain(tiny_model, 1, emulated_speed=0.1).segments[0]
    slow.ids_input(16)[...] = PROMPT[:16]
    slow.run(0, [0], 16)
    cpu_s = time.thread_time()
    compute_s = sum(slow.run(0, [0], 16).compute_s for _ in range(20))
    assert compute_s > 5 * (time.thread_time() - cpu_s)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_first": False, "width_in": 64}, "not the plan's.*hidden"),
        ({"kv_layers": ()}, "past_key_values"),
    ],
)
def test_a_graph_that_is_not_the_plans(tiny_model: Model, changes: dict[str, Any], words: str) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 3), 0).segment
    spec = dataclasses.replace(spec, **changes)
    with pytest.raises(SegmentUnusable, match=words):
        Segment(spec, tiny_model.blobs_folder / spec.graph.sha256, threads=1)


def test_a_file_that_is_no_graph(tiny_model: Model, tmp_path: Path) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0).segment
    (tmp_path / "graph").write_bytes(b"no graph")
    with pytest.raises(SegmentUnusable, match="no model in ONNX's format"):
        Segment(spec, tmp_path / "graph", threads=1)


# --- the runner -------------------------------------------------------------------------------------------------------


class Runner:
    """A runner with a store of its own and events that can be waited for."""

    def __init__(self, home: Path) -> None:
        config = NodeConfig(name="a", broker_url="", home=home)
        self.store = BlobStore(config.blob_directory, limit_bytes=1 << 30)
        self.woken = 0
        self.runner = SegmentRunner(self.store, threads=1, emulated_speed=1.0, on_load_event=self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def put(self, model: Model, spec: StageSpec) -> None:
        """Put the blobs there without a server."""
        for blob in spec.segment.files:
            if not self.store.path(blob.sha256).exists():
                shutil.copy(model.blobs_folder / blob.sha256, self.store.path(blob.sha256))

    def next_result(self) -> LoadEvent:
        """The next event that is no progress."""
        while isinstance(event := self.runner.events.get(timeout=DEADLINE_S), LoadProgress):
            pass
        return event


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path / "home")


def row(position: int, count: int, **changes: Any) -> Row:
    fields: dict[str, Any] = {"request": 1, "slot": 0, "attempt": 0, "position": position, "count": count}
    return Row(**(fields | {"sample": False} | changes))


def run_row(runner: SegmentRunner, stage: int, position: int, count: int, **changes: Any) -> RowResult:
    """Run a row alone."""
    (result,) = runner.run(Work(("main", EPOCH, stage), (row(position, count, **changes),))).rows
    return result


def activation(payload: bytes, count: int, width: int, dtype: Dtype) -> Frame:
    return Frame(
        kind=Kind.ACTIVATION, request=1, epoch=EPOCH, attempt=0, position=0, count=count, width=width, dtype=dtype,
        payload=payload,
    )  # fmt: skip


@pytest.mark.parametrize(("wire", "dtype"), [("fp32", Dtype.FP32), ("fp16", Dtype.FP16), ("int8", Dtype.INT8)])
def test_work_from_ids_to_a_token(tiny_model: Model, tmp_path: Path, wire: str, dtype: Dtype) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 2)
    runners = []
    for stage in range(2):
        each = Runner(tmp_path / str(stage))
        spec = specification(tiny_model, cuts, stage, wire_dtype=wire)
        each.put(tiny_model, spec)
        each.runner.load(spec)
        assert isinstance(each.next_result(), Loaded)
        assert each.woken >= 1
        runners.append(each.runner)
    first = run_row(runners[0], 0, 0, 16, ids=PROMPT[:16])
    assert first.payload is not None
    frame = activation(first.payload, 16, spec.segment.width_in, dtype)
    assert run_row(runners[1], 1, 0, 16, frame=frame).tokens == ()
    sampled = run_row(runners[1], 1, 0, 16, frame=frame, sample=True, draw=Draw(Sampling(), 16, ()))
    expected = int(Chain(tiny_model, 1).run(0, 0, PROMPT[:16]).argmax())
    if wire == "fp32":
        assert sampled.tokens == (expected,)
    assert sampled.tokens


def test_what_is_not_finite_fails_the_request_only(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 1)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    runner.next_result()
    bad = np.full((2, spec.segment.width_in), np.nan, np.float32).tobytes()
    result = run_row(runner.runner, 1, 0, 2, frame=activation(bad, 2, spec.segment.width_in, Dtype.FP32))
    assert result.failure_code == "bad_input"
    assert "NaN" in str(result.failure)
    good = np.ones((2, spec.segment.width_in), np.float32).tobytes()
    frame = activation(good, 2, spec.segment.width_in, Dtype.FP32)
    assert run_row(runner.runner, 1, 0, 2, frame=frame).failure is None


def test_a_batch_computes_what_each_row_alone_computes(tiny_model: Model, runner: Runner) -> None:
    """Slots 0 and 2 decode, slot 1 between them is idle, in the middle of its own answer."""
    spec = specification(tiny_model, [0, tiny_model.manifest.num_units], 0)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    runner.next_result()
    key = ("main", EPOCH, 0)
    alone = Chain(tiny_model, 1)
    for slot, length in enumerate((16, 7, 10)):
        run_row(runner.runner, 0, 0, length, slot=slot, ids=PROMPT[:length])
        alone.run(slot, 0, PROMPT[:length])
    for step in range(5):
        rows = tuple(
            row(length + step, 1, request=slot, slot=slot, ids=[20 + step], sample=True, draw=Draw(Sampling(), 0, ()))
            for slot, length in ((0, 16), (2, 10))
        )
        computed = runner.runner.run(Work(key, rows, idle=((1, 7),)))
        expected = [int(alone.run(slot, length + step, [20 + step]).argmax()) for slot, length in ((0, 16), (2, 10))]
        assert [result.tokens[0] for result in computed.rows] == expected
    last = run_row(runner.runner, 0, 7, 1, slot=1, ids=[9], sample=True, draw=Draw(Sampling(), 8, ()))
    assert last.tokens == (int(alone.run(1, 7, [9]).argmax()),)


def test_a_bad_row_does_not_fail_the_others_of_its_batch(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 3), 1)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    runner.next_result()
    values = [np.full((1, spec.segment.width_in), value, np.float32).tobytes() for value in (1.0, np.inf, 0.5)]
    frames = [activation(value, 1, spec.segment.width_in, Dtype.FP32) for value in values]
    rows = tuple(row(0, 1, request=slot, slot=slot, frame=frame) for slot, frame in enumerate(frames))
    results = runner.runner.run(Work(("main", EPOCH, 1), rows)).rows
    assert [result.failure_code if result.failure else None for result in results] == [None, "bad_input", None]
    again = run_row(runner.runner, 1, 0, 1, slot=2, frame=frames[2])
    assert again.payload is not None
    assert results[2].payload is not None
    difference = np.frombuffer(again.payload, np.float32) - np.frombuffer(results[2].payload, np.float32)
    assert np.abs(difference).max() < 1e-4


def test_what_onnx_runtime_refuses_fails_the_request_only(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    runner.next_result()
    result = run_row(runner.runner, 0, 0, 2, ids=[1, 10**6])
    assert result.failure_code == "cannot_run"
    assert "ONNX Runtime" in str(result.failure)
    assert run_row(runner.runner, 0, 0, 2, ids=[1, 2]).failure is None


def test_a_blob_that_nobody_has(tiny_model: Model, runner: Runner) -> None:
    runner.runner.load(specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0))
    event = runner.next_result()
    assert isinstance(event, LoadFailed)
    assert event.code == "no_files"
    assert "can't be fetched" in event.reason


def test_what_is_no_graph_is_reported(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0)
    runner.put(tiny_model, spec)
    graph = BlobRef(sha256=hashlib.sha256(b"no graph").hexdigest(), size_bytes=8)
    runner.store.path(graph.sha256).write_bytes(b"no graph")
    runner.runner.load(dataclasses.replace(spec, segment=dataclasses.replace(spec.segment, graph=graph)))
    event = runner.next_result()
    assert isinstance(event, LoadFailed)
    assert event.code == "unusable"
    assert "no model in ONNX's format" in event.reason


def with_answer(model: Model, cuts: Sequence[int], stage: int, of: Sequence[int]) -> StageSpec:
    """A stage with the known answer of units [of[0], of[1])."""
    answer = KnownAnswers(model, lambda: None).of(*of)
    return specification(model, cuts, stage, answer=BlobRef(sha256=answer.sha256, size_bytes=answer.size_bytes))


def test_a_segment_is_loaded_if_it_gives_its_known_answer(tiny_model: Model, runner: Runner) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 3)
    spec = with_answer(tiny_model, cuts, 1, cuts[1:3])
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    assert isinstance(runner.next_result(), Loaded)
    assert runner.runner.wrong_answers() == []


def test_a_segment_that_gives_another_answer_is_refused(tiny_model: Model, runner: Runner) -> None:
    """Its graph and weights are those of other units."""
    cuts = even_cuts(tiny_model.manifest.num_units, 6)
    spec = with_answer(tiny_model, cuts, 2, cuts[3:5])
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    event = runner.next_result()
    assert isinstance(event, LoadFailed)
    assert event.code == "wrong_answers"
    assert "its answer to a known input is wrong: row" in event.reason


def test_all_stages_of_a_segment_that_has_become_wrong_are_named(
    tiny_model: Model, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heir in the next epoch has the same segment; another segment is right."""
    cuts = even_cuts(tiny_model.manifest.num_units, 3)
    spec, other = (with_answer(tiny_model, cuts, stage, cuts[stage : stage + 2]) for stage in (1, 2))
    heir = dataclasses.replace(spec, key=("main", Epoch(generation=1, counter=2), 1))
    for each in (spec, other):
        runner.put(tiny_model, each)
        runner.runner.load(each)
        assert isinstance(runner.next_result(), Loaded)
    runner.runner.load(heir, heir_of=spec.key, same_segment=True)
    assert isinstance(runner.next_result(), Loaded)
    segment = runner.runner._segments[spec.key]
    run = segment.run

    def run_wrongly(*arguments: Any, **options: Any) -> Any:
        result = run(*arguments, **options)
        result.output[0, 3] = np.nextafter(result.output[0, 3], np.float32(np.inf))
        return result

    monkeypatch.setattr(segment, "run", run_wrongly)
    failed = runner.runner.wrong_answers()
    assert {event.key for event in failed} == {spec.key, heir.key}
    assert {event.code for event in failed} == {"wrong_answers"}
    for event in failed:
        runner.runner.unload(event.key)
    assert runner.runner.wrong_answers() == []
    assert list(runner.runner._self_checks) == [runner.runner._segments[other.key]]


class BlobServer:
    """Serves a model's blobs; ``gate`` holds answers back."""

    def __init__(self, model: Model) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.set()
                outer.gate.wait(DEADLINE_S)
                super().do_GET()

            def log_message(self, *args: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(model.blobs_folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def blob_server(tiny_model: Model) -> Iterator[BlobServer]:
    tiny_model.segment(0, 3)  # graphs are made when they are asked for
    server = BlobServer(tiny_model)
    yield server
    server.close()


def test_two_loads_of_the_same_blobs_take_turns(tiny_model: Model, runner: Runner, blob_server: BlobServer) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 2)
    blob_server.gate.clear()
    for counter in (1, 2):
        spec = specification(
            tiny_model, cuts, 0, blob_urls=(blob_server.url,), epoch=Epoch(generation=1, counter=counter)
        )
        runner.runner.load(spec)
    blob_server.gate.set()
    events = [runner.next_result(), runner.next_result()]
    assert all(isinstance(event, Loaded) for event in events)
    fetched = sorted(event.downloaded_bytes for event in events if isinstance(event, Loaded))
    assert fetched == [0, sum(blob.size_bytes for blob in spec.segment.files)]


def test_a_release_stops_a_download(tiny_model: Model, runner: Runner, blob_server: BlobServer) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 2)
    blob_server.gate.clear()
    spec = specification(tiny_model, cuts, 0, blob_urls=(blob_server.url,))
    runner.runner.load(spec)
    assert blob_server.asked.wait(DEADLINE_S)
    runner.runner.unload(("main", EPOCH, 0))
    other = specification(tiny_model, cuts, 1, blob_urls=(blob_server.url,), epoch=Epoch(generation=1, counter=2))
    runner.runner.load(other)
    blob_server.gate.set()
    event = runner.next_result()
    assert isinstance(event, Loaded)
    assert event.key == ("main", other.epoch, 1)
    assert not all(runner.store.path(blob.sha256).exists() for blob in spec.segment.files)


def test_a_segment_can_be_unloaded_and_loaded_again(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0)
    runner.put(tiny_model, spec)
    payloads = []
    for _ in range(2):
        runner.runner.load(spec)
        assert isinstance(runner.next_result(), Loaded)
        payloads.append(run_row(runner.runner, 0, 0, 16, ids=PROMPT[:16]).payload)
        runner.runner.unload(("main", EPOCH, 0))
    assert payloads[0] == payloads[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak is for ever")
def test_the_peak_of_a_segment_is_forgotten_with_it(tiny_model: Model, runner: Runner) -> None:
    spec = specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), 0)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    assert isinstance(runner.next_result(), Loaded)
    ballast = bytearray(b"x") * (64 << 20)
    peak_bytes = device.memory_bytes()[1]
    del ballast
    assert device.memory_bytes()[1] > peak_bytes - (1 << 20)  # the kernel counts by the page and the CPU
    runner.runner.unload(spec.key)
    runner.runner.unloaded.free()
    assert device.memory_bytes()[1] < peak_bytes - (32 << 20)


@pytest.mark.parametrize("kept_s", [0.0, DEADLINE_S])
def test_what_is_unloaded_is_freed_in_a_while_or_with_the_next_load(
    tiny_model: Model, runner: Runner, monkeypatch: pytest.MonkeyPatch, kept_s: float
) -> None:
    """Not at once: a ring that has just moved would wait for it."""
    monkeypatch.setattr(unloaded_segments, "KEPT_S", kept_s)
    spec, other = (specification(tiny_model, even_cuts(tiny_model.manifest.num_units, 2), stage) for stage in (0, 1))
    for each in (spec, other):
        runner.put(tiny_model, each)
    runner.runner.load(spec)
    assert isinstance(runner.next_result(), Loaded)
    freed = threading.Event()
    segment = weakref.ref(runner.runner._segments[spec.key], lambda _: freed.set())
    runner.runner.unload(spec.key)
    if kept_s:
        assert segment() is not None
        runner.runner.load(other)
        assert isinstance(runner.next_result(), Loaded)
    assert freed.wait(DEADLINE_S)


# --- live moves -------------------------------------------------------------------------------------------------------

NEXT = Epoch(generation=1, counter=2)


def test_the_same_segment_outlives_the_epoch_it_was_loaded_for(tiny_model: Model, runner: Runner) -> None:
    cuts = even_cuts(tiny_model.manifest.num_units, 2)
    spec = specification(tiny_model, cuts, 0)
    runner.put(tiny_model, spec)
    runner.runner.load(spec)
    runner.next_result()
    run_row(runner.runner, 0, 0, 16, ids=PROMPT[:16])
    runner.runner.load(specification(tiny_model, cuts, 0, epoch=NEXT), heir_of=("main", EPOCH, 0), same_segment=True)
    again = runner.next_result()
    assert isinstance(again, Loaded)
    assert (again.key, again.downloaded_bytes, again.load_s) == (("main", NEXT, 0), 0, 0.0)
    runner.runner.unload(("main", EPOCH, 0))
    (result,) = runner.runner.run(Work(("main", NEXT, 0), (row(16, 8, ids=PROMPT[16:24]),))).rows
    alone = Chain(tiny_model, 2).segments[0]
    for position, count in ((0, 16), (16, 8)):
        alone.ids_input(count)[...] = PROMPT[position : position + count]
        expected = alone.run(0, [position], count).output
    assert result.payload == expected.tobytes()


def test_an_heir_goes_on_from_shared_rows_and_rows_that_were_sent(tiny_model: Model, runner: Runner) -> None:
    """One stage becomes two: the first keeps layers 0 and 1, the second gets the others."""
    units = tiny_model.manifest.num_units
    folder = tiny_model.blobs_folder
    old = Chain(tiny_model, 1).segments[0]
    keeping = specification(tiny_model, [0, 3, units], 0).segment
    getting = specification(tiny_model, [0, 3, units], 1).segment
    old.ids_input(16)[...] = PROMPT[:16]
    old.run(1, [0], 16)
    before = [buffer.data.copy() for buffer in old.kv.buffers]
    first = Segment(keeping, folder / keeping.graph.sha256, threads=1, heir_of=old)
    first.warm_up()
    assert all((kept == buffer.data).all() for kept, buffer in zip(before, old.kv.buffers, strict=True))
    assert [first.kv.buffer(layer, 0) is old.kv.buffer(layer, 0) for layer in (0, 1, 2)] == [True, True, False]
    second = Segment(getting, folder / getting.graph.sha256, threads=1)
    second.warm_up()
    blocks = tuple(
        KvBlock(5, 1, layer, part, position, count)
        for layer in (2, 3)
        for part in (0, 1)
        for position, count in ((0, 9), (9, 7))
    )
    for frame in decode_frames(old.kv.read(SendKvRows(("main", EPOCH, 0), "topic", NEXT, 3, blocks))):
        assert (frame.request, frame.epoch, frame.attempt) == (5, NEXT, 3)
        second.kv.write(WriteKvRows(("main", NEXT, 1), 2, unpack_kv_header(frame), frame))
    first.ids_input(16)[...] = PROMPT[16:32]
    second.take_in(first.run(1, [16], 16).output.tobytes(), Dtype.FP32, 16)
    moved = second.run(2, [16], 16).output.copy()
    old.ids_input(16)[...] = PROMPT[16:32]
    assert (moved == old.run(1, [16], 16).output).all()


def test_another_cache_is_not_shared(tiny_model: Model) -> None:
    spec = specification(tiny_model, [0, tiny_model.manifest.num_units], 0).segment
    old = Chain(tiny_model, 1).segments[0]
    with pytest.raises(SegmentUnusable, match="layer 0 has another KV cache"):
        Segment(
            dataclasses.replace(spec, context_tokens=32),
            tiny_model.blobs_folder / spec.graph.sha256,
            threads=1,
            heir_of=old,
        )
