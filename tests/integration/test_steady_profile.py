"""The profile steady: a text has the same logits, to the bit, whatever runs, batches and rings it is computed in."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.local_broker import LocalBroker
from edge_node.errors import SegmentUnusable
from edge_node.runtime import run_choice
from edge_node.runtime.attention_trial import keeps_bits
from edge_node.runtime.execute import execute
from edge_node.runtime.fast_decode_runner import FastDecodeRunner
from edge_node.runtime.known_answers import SelfCheck, answer
from edge_node.runtime.sampling import choose_token
from edge_node.runtime.segment import RunResult, Segment
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import unit_benchmark
from edge_node.wire.activations import quiet
from edge_node.work import Draw, Work
from orchestrator import cli
from orchestrator.commands.settings import Settings
from orchestrator.model.errors import NoSuchModel
from orchestrator.model.model import Model
from orchestrator.model.precision import PROFILES
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import compare_runs, verify
from orchestrator.service.worker import probe_parts
from schemas.codec import Dtype
from schemas.messages import ProbeNode, Sampling, WireDtype
from schemas.run_lengths import AS_WANTED, CANDIDATES, RunLengths
from tests.integration.test_node_segment import EPOCH, activation, row
from tests.integration.test_node_solo import Step, given
from tests.support.known_answers import check, known_answers
from tests.support.live_move import move
from tests.support.nodes import running_nodes
from tests.support.ring import Ring, even_cuts
from tests.support.segments import open_segment
from tests.support.tiny_int4 import tiny_int4

TEXT = [(11 + 37 * index) % 320 for index in range(33)]
WHOLE = (len(TEXT),)
"""An odd number: the last row of a run must not be treated in another way, either."""
CONTEXT = 48
RUNS = ((2,), (3,), (16, 15, 1), (5, 7, 12), (1,), (1, 2))
"""Lengths that are taken in turn until the text ends."""
SEEDED = Sampling(temperature=0.9, top_k=40, seed=17, repetition_penalty=1.2)


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama of four blocks whose int4 weights are computed with in the profile steady."""
    made = tiny_int4(tmp_path_factory.mktemp("steady"), "steady")
    assert made.manifest.name == "tiny-int4-steady"
    return made


class Chain:
    """The model in consecutive segments; hidden states travel as ``wire``."""

    def __init__(self, model: Model, stages: int, wire: WireDtype = "fp32", **changes: int) -> None:
        options = {"context_tokens": CONTEXT, "slots": 3, "chunk_tokens": len(TEXT), **changes}
        cuts = even_cuts(model.manifest.num_units, stages)
        self.segments = [open_segment(model, a, b, wire=wire, **options) for a, b in itertools.pairwise(cuts)]

    def run(self, slot: int, position: int, ids: Sequence[int], logits: int) -> NDArray[np.float32]:
        """Logits (logits, vocabulary) of the last ids."""
        first = self.segments[0]
        first.ids_input(len(ids))[...] = ids
        output = first.run(slot, [position], len(ids), logits=logits).output
        for before, segment in itertools.pairwise(self.segments):
            segment.take_in(before.give_out(len(ids)), before.spec.wire, len(ids))
            output = segment.run(slot, [position], len(ids), logits=logits).output
        return output.copy()

    def text(self, slot: int, lengths: Sequence[int], *, all_logits: bool = True) -> NDArray[np.float32]:
        """Logits of the text, position by position or of each run's last."""
        rows = []
        for start, stop in itertools.pairwise(boundaries(lengths)):
            ids = TEXT[start:stop]
            rows.append(self.run(slot, start, ids, len(ids) if all_logits else 1))
        return np.concatenate(rows)


def boundaries(lengths: Sequence[int]) -> list[int]:
    """Where runs of these lengths, taken in turn, begin and end."""
    found = [0]
    for length in itertools.cycle(lengths):
        found.append(min(found[-1] + length, len(TEXT)))
        if found[-1] == len(TEXT):
            break
    return found


@pytest.fixture(scope="module")
def expected(model: Model) -> NDArray[np.float32]:
    """Logits (text, vocabulary) of one run."""
    logits = Chain(model, 1).text(0, WHOLE)
    assert len(set(logits.argmax(-1))) > 3, "the model says something"
    return logits


@pytest.mark.parametrize("lengths", RUNS, ids=str)
@pytest.mark.parametrize("stages", [1, 3])
def test_runs_of_any_length_give_the_bits_of_one_run(
    model: Model, expected: NDArray[np.float32], stages: int, lengths: Sequence[int]
) -> None:
    chain = Chain(model, stages)
    assert chain.text(1, lengths).tobytes() == expected.tobytes()
    last = chain.text(2, lengths, all_logits=False)
    ends = np.array(boundaries(lengths)[1:])
    assert last.tobytes() == expected[ends - 1].tobytes(), "also where only the last logits are wanted"


def test_the_wire_may_round_in_one_layout(model: Model) -> None:
    """With halves on the wire, whose conversion is in the graphs, runs still make no difference; cuts do."""
    whole, *others = (Chain(model, 3, "fp16").text(0, lengths) for lengths in (WHOLE, *RUNS))
    for text in others:
        assert text.tobytes() == whole.tobytes()
    assert Chain(model, 2, "fp16").text(0, WHOLE).tobytes() != whole.tobytes()


def test_without_dummies_bits_differ(model: Model, expected: NDArray[np.float32]) -> None:
    """What the other tests would find if a step were computed alone."""
    alone = Chain(model, 1, same_bits=False, packs_corrections=False)
    assert alone.text(0, [1]).tobytes() != expected.tobytes()
    assert alone.text(0, [2])[:32].tobytes() == expected[:32].tobytes()


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("wire", ["fp32", "fp16"])
def test_what_lies_in_the_buffers_does_not_matter(model: Model, stages: int, wire: WireDtype) -> None:
    """Not even what is no number: of an earlier request, behind a step."""
    chain = Chain(model, stages, wire)
    expected = chain.text(0, WHOLE)
    for position in range(12, 20):
        for segment in chain.segments:
            for buffer in segment.kv.buffers:
                buffer.data[:, :, position:] = np.nan
            if segment.spec.is_first:
                segment.ids_input(len(TEXT))[:] = 7
            else:
                for tensor in segment.entry.tensors:
                    tensor.data[:] = np.nan
        found = chain.run(0, position, TEXT[position : position + 1], 1)
        assert found.tobytes() == expected[position : position + 1].tobytes()
        for segment in chain.segments:
            assert all(np.isnan(buffer.data[:, :, position + 2 :]).all() for buffer in segment.kv.buffers)


@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_fast_path_gives_the_same(model: Model, stage: int, wire: WireDtype) -> None:
    """A step with everything at hand, a general one, and a chunk; other requests come between."""
    general, fast, chunked = (Chain(model, 3, wire).segments[stage] for _ in range(3))
    runner = FastDecodeRunner(fast, 1)
    steps = [given(general, position) for position in range(6)]
    for position, payload in enumerate(steps):
        put(general, payload)
        output = general.run(1, [position], 1).output
        wanted = choose(output[0], position) if general.spec.is_last else general.give_out()
        got, _ = runner.step(Step(position, payload))  # type: ignore[arg-type]
        assert got == wanted
        if position == 3:  # somebody else's prompt
            put(fast, *steps)
            fast.run(0, [0], len(steps))
    put(chunked, *steps)
    output = chunked.run(1, [0], len(steps), logits=len(steps) if chunked.spec.is_last else 1).output
    last = len(steps) - 1
    assert got == (choose(output[last], last) if chunked.spec.is_last else chunked.give_out(1, last))


def put(segment: Segment, *payloads: bytes | int) -> None:
    for index, payload in enumerate(payloads):
        if isinstance(payload, int):
            segment.ids_input(1, index)[0] = payload
        else:
            segment.take_in(payload, segment.spec.wire, 1, index)


def choose(logits: NDArray[np.float32], position: int) -> int:
    draw = Step(position, None).draw()
    return choose_token(logits, draw.sampling, draw.position, draw.history)


def test_requests_of_a_batch_get_the_bits_they_get_alone(model: Model) -> None:
    first = Chain(model, 2).segments[0]
    alone = Chain(model, 2).segments[0]
    for slot, length in enumerate((9, 5, 12)):
        for segment in (first, alone):
            segment.ids_input(length)[:] = TEXT[:length]
            segment.run(slot, [0], length)
    rows = tuple(row(length, 1, request=slot, slot=slot, ids=[20 + slot]) for slot, length in ((0, 9), (2, 12)))
    together = execute(first, Work(("main", EPOCH, 0), rows, idle=((1, 5),)))
    one_by_one = [execute(alone, Work(("main", EPOCH, 0), (each,))).rows[0] for each in rows]
    assert [result.payload for result in together.rows] == [result.payload for result in one_by_one]
    assert all(result.payload for result in together.rows)
    assert together.compute_s > 0
    for kept, untouched in zip(first.kv.buffers, alone.kv.buffers, strict=True):
        assert kept.data.tobytes() == untouched.data.tobytes(), "the idle slot's rows, too"


def test_a_bad_row_does_not_fail_the_others_of_its_batch(model: Model) -> None:
    last = Chain(model, 2).segments[1]
    rows = []
    for slot, value in enumerate((1.0, np.nan, 0.5)):
        hidden = np.full((1, last.spec.width_in), value, np.float32)
        frame = activation(hidden.tobytes(), 1, last.spec.width_in, Dtype.FP32)
        rows.append(row(0, 1, slot=slot, request=slot, frame=frame, sample=True, draw=Draw(Sampling(), 1, ())))
    results = execute(last, Work(("main", EPOCH, 1), tuple(rows))).rows
    assert [result.failure_code if result.failure else None for result in results] == [None, "bad_input", None]


@pytest.mark.parametrize("wire", ["fp32", "fp16"])
@pytest.mark.parametrize("run_lengths", CANDIDATES, ids=str)
def test_dummies_fit_behind_the_longest_chunk(model: Model, run_lengths: RunLengths, wire: WireDtype) -> None:
    """One of an odd number of positions, all of whose logits are wanted; also those that only other processors need."""
    chain = Chain(model, 2, wire)
    for segment in chain.segments:
        segment.runs = run_lengths
    expected = chain.text(0, WHOLE)
    for lengths in ((5, 7, 12), (2,)):
        assert chain.text(1, lengths).tobytes() == expected.tobytes()


@pytest.mark.parametrize("run_lengths", CANDIDATES, ids=str)
def test_dummies_fit_behind_the_whole_context(model: Model, run_lengths: RunLengths) -> None:
    """Of each slot, without a trace in the next one's rows."""
    chain = Chain(model, 1)
    (segment,) = chain.segments
    segment.runs = run_lengths
    for slot in (2, 1, 0):
        for start in (0, 32):
            chain.run(slot, start, TEXT[: min(32, CONTEXT - start)], 1)
    expected = chain.run(2, CONTEXT - 2, [7, 8], 1)
    for slot in (0, 1, 2):
        chain.run(slot, CONTEXT - 2, [7], 1)
        assert chain.run(slot, CONTEXT - 1, [8], 1).tobytes() == expected.tobytes()
    with pytest.raises(SegmentUnusable, match="several requests"):
        segment.run(0, [3, 4], 1)


def test_a_processor_that_needs_more_dummies_gets_them(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one for which none are enough says so. Such kernels are played by runs without dummies."""
    monkeypatch.setattr(run_choice, "_held", {})
    segment = Chain(model, 2).segments[1]
    monkeypatch.setattr(run_choice, "CANDIDATES", (AS_WANTED, RunLengths(4, 3, 2)))
    for trial in (keeps_bits, lambda *_: True):  # the segment itself would tell, too
        monkeypatch.setattr(run_choice, "keeps_bits", trial)
        run_choice._held.clear()
        segment.warm_up()
        assert segment.runs == RunLengths(4, 3, 2)
    monkeypatch.setattr(run_choice, "keeps_bits", lambda runs, *_: runs.dummies > 3)
    run_choice._held.clear()
    with pytest.raises(SegmentUnusable, match=r"other bits in other runs.*--profile exact"):
        segment.warm_up()


@pytest.mark.parametrize("head_dim", [16, 64, 80, 128])
def test_attention_alone_shows_what_it_needs(head_dim: int) -> None:
    assert not keeps_bits(AS_WANTED, head_dim, "float32", 1)
    assert keeps_bits(CANDIDATES[-1], head_dim, "float32", 1)
    assert keeps_bits(CANDIDATES[-1], head_dim, "float16", 1)


@pytest.mark.parametrize("chunk_tokens", [2, 3, 16])
def test_what_this_processor_needs_is_found(model: Model, chunk_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_choice, "_held", {})
    for start, stop in ((0, 6), (0, 1), (0, 3), (2, 4), (3, 6), (5, 6)):
        segment = open_segment(model, start, stop, chunk_tokens=chunk_tokens, context_tokens=chunk_tokens)
        segment.warm_up()
        assert segment.runs in CANDIDATES[:2]


def test_kernels_are_tried_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever segment they are in; with other threads they are others."""
    monkeypatch.setattr(run_choice, "_held", {})
    trials: list[object] = []
    monkeypatch.setattr(run_choice, "_outputs", lambda *trial: trials.append(trial))
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        open_segment(model, start, stop, chunk_tokens=16, context_tokens=16).warm_up()
    assert trials
    trials.clear()
    for start, stop in ((0, 6), (0, 3), (1, 4), (4, 6)):
        segment = open_segment(model, start, stop, chunk_tokens=16, context_tokens=64)
        segment.warm_up()
        assert segment.runs in CANDIDATES[:2]
    assert not trials
    segment.threads = 2
    segment.warm_up()
    assert trials


@pytest.mark.parametrize("wire", ["fp32", "fp16"])
def test_known_answers_are_computed_as_nodes_compute(model: Model, wire: WireDtype) -> None:
    units = model.manifest.num_units
    for start, stop in ((0, units), (0, 3), (2, 4), (2, units), (units - 1, units)):
        for chunk_tokens in (2, 3, 16):
            segment = open_segment(model, start, stop, wire=wire, chunk_tokens=chunk_tokens, context_tokens=5)
            made = check(model, segment, start, stop)
            made.repeat()
            assert made.gives_the_same_bits
            if wire == "fp32":
                known = made._known
                expected = np.frombuffer(known.expected, "<f4").reshape(known.rows, known.values)
                assert answer(segment, known).tobytes() == expected.tobytes()


def test_known_answers_allow_as_much_as_in_fast(model: Model) -> None:
    answers = known_answers(model)
    assert answers._tolerance(4, "steady") == answers._tolerance(4, "fast") > answers._tolerance(4, "exact")


def test_a_segment_without_dummies_is_another_segment(model: Model) -> None:
    """Its graph is the same, and its answer within what is allowed, but not to the bit."""
    alone = open_segment(model, 0, 3, same_bits=False)
    path = model.blobs_folder / known_answers(model).of(0, 3).sha256
    known = SelfCheck(alone, path)._known
    found = answer(alone, known)
    assert found.tobytes() != np.frombuffer(known.expected, "<f4").tobytes()


def test_verify_compares_runs(model: Model) -> None:
    steady, fast = compare_runs(model), compare_runs(model, profile="fast")
    assert (steady.bitwise_equal, steady.max_abs_difference, steady.compared) == (True, 0.0, 64)
    assert not fast.bitwise_equal
    assert fast.max_abs_difference > 0
    assert verify(model).bitwise_equal


def test_verify_says_whether_the_text_is_kept(
    model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--home", str(model.blobs_folder.parent), "model", "verify"]
    monkeypatch.setattr(Settings, "models_dir", model.blobs_folder.parent)
    monkeypatch.setattr(ModelStore, "compare", _no_source)
    assert cli.run(command) == 0
    said = "chunks and single steps against one run (steady): 64 rows of logits, largest difference"
    assert f"{said} 0, equal to the bit\n" in capsys.readouterr().out
    monkeypatch.setitem(PROFILES, "steady", replace(PROFILES["steady"], same_bits=False))
    assert cli.run(command) == 1
    out, errors = capsys.readouterr()
    assert re.search(re.escape(said) + r" [0-9.e-]+, not equal to the bit\n", out)
    assert "WRONG: on this machine steady does not keep the text" in errors


def _no_source(*_: object) -> None:
    raise NoSuchModel("its source is elsewhere")


@pytest.mark.parametrize(("profile", "batches"), [("fast", True), ("steady", False)])
def test_a_node_measures_what_a_step_costs(model: Model, tmp_path: Path, profile: str, batches: bool) -> None:
    """With its dummy; and that requests are computed one after the other."""
    totals: set[int] = set()

    class Watched(Segment):
        def run(self, slot: int, positions: Sequence[int], count: int, *, logits: int = 1) -> RunResult:
            result = super().run(slot, positions, count, logits=logits)
            if count == 1 and positions[0] == 64:
                totals.add(self.total_view[0])
            return result

    parts = probe_parts(model)
    store = BlobStore(tmp_path, limit_bytes=1 << 30)
    for blob in {blob for part in parts for blob in (part.graph, *part.blobs)}:
        shutil.copy(model.blobs_folder / blob.sha256, store.path(blob.sha256))
    probe = ProbeNode(
        model="tiny", fingerprint="", parts=parts, blob_urls=("http://127.0.0.1:9/blobs",), vocab_size=320, width=64,
        wire_dtype="fp32", same_bits=PROFILES[profile].same_bits, time_limit_s=0.01,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_benchmark, "Segment", Watched)
        measured = unit_benchmark.measure_parts(probe, store, 1, 1.0)
    assert {unit.decode_batched_s is not None for unit in measured} == {batches}
    assert all(unit.decode_s > 0 for unit in measured)
    assert totals == ({65} if batches else {66})


def test_weights_are_those_of_fast(model: Model) -> None:
    assert model.segment(1, 4).blobs == model.segment(1, 4, "fast").blobs
    assert model.segment(0, 1).graph == model.segment(0, 1, "fast").graph, "no attention, no dummies in it"


def test_texts_of_rings_are_those_of_one_node(mosquitto: LocalBroker, tmp_path: Path, model: Model) -> None:
    """Alone and four at once, with guesses and without, on one to three nodes, and while layers move."""
    names, plan = ("alfa", "bravo", "charlie"), {"context_tokens": 96, "chunk_tokens": 7}
    prompts = [TEXT[: 9 + index] * 2 for index in range(4)]
    with running_nodes(names, mosquitto.url, tmp_path) as nodes, Ring(mosquitto.url, model) as ring:
        homes = {name: node.home for name, node in nodes.items()}

        def texts(*, together: bool, draft_tokens: int = 0) -> list[list[int]]:
            found = []
            for sampling in (Sampling(), SEEDED):
                answers = []
                for prompt in prompts:
                    answers.append(ring.open(prompt, 40, sampling=sampling, draft_tokens=draft_tokens))
                    if not together:
                        ring.finish(answers[-1])
                found += [ring.finish(one).ids if together else one.ids for one in answers]
            return found

        ring.deploy(homes, [0, 6], order=names[:1], **plan)
        alone = texts(together=False)
        assert len({tuple(text) for text in alone}) == 8
        assert texts(together=True) == alone
        for stages in (2, 3):
            ring.deploy(homes, even_cuts(6, stages), order=names[:stages], **plan)
            assert texts(together=True) == alone
            assert texts(together=False, draft_tokens=8) == alone
        answers = [ring.open(prompt, 40) for prompt in prompts]
        ring.wait("tokens", lambda: all(answer.ids for answer in answers))
        move(ring, homes, names[1:], [0, 2, 6], **plan)
        assert [ring.finish(answer).ids for answer in answers] == alone[:4]
