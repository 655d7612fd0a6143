"""Keys and values in int8: a quarter of the bytes, in memory and in moves, and nearly the same logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.local_broker import LocalBroker
from edge_node.errors import SegmentUnusable
from edge_node.runtime import session
from edge_node.runtime.segment import Segment
from orchestrator.effects import BuildSegments, OpenModel
from orchestrator.events import ModelOpened, SegmentsBuilt
from orchestrator.model.kv_calibration import KV_FILE, KvReport, measure_kv, read_kv, with_rounded_kv
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from orchestrator.service.worker import Worker
from schemas.codec import KV_HEADER_BYTES, VALUE_BYTES, Dtype
from schemas.messages import StageRef
from schemas.run_lengths import cut_into_runs
from tests.support.known_answers import check
from tests.support.live_move import move
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.ring import Ring
from tests.support.segments import open_segment

PROMPT = list(range(7, 40))
NAMES = ("alfa", "bravo", "charlie")
PLAN = {"context_tokens": 256, "chunk_tokens": 8}


@pytest.fixture(scope="module")
def report(tiny_model: Model) -> KvReport:
    return measure_kv(tiny_model)


@pytest.fixture
def rounded(tiny_model: Model, report: KvReport) -> Model:
    return with_rounded_kv(tiny_model, report)


def logits(segment: Segment, ids: Sequence[int], lengths: Sequence[int]) -> NDArray[np.float32]:
    """Those of a whole model after each token of a text that comes in runs of these lengths."""
    rows = []
    for start, stop in cut_into_runs(len(ids), lengths):
        segment.ids_input(stop - start)[:] = ids[start:stop]
        rows.append(segment.run(0, (start,), stop - start, logits=stop - start).output.copy())
    return np.concatenate(rows)


def whole(model: Model, **changes: object) -> Segment:
    return open_segment(model, 0, model.manifest.num_units, **changes)


def test_a_quarter_of_the_memory_and_nearly_the_same_logits(tiny_model: Model, rounded: Model) -> None:
    sizes, found = [], []
    for model in (tiny_model, rounded):
        segment = whole(model)
        sizes.append(sum(buffer.data.nbytes for buffer in segment.kv.buffers))
        found.append(logits(segment, PROMPT, (16, 1)))
    assert sizes[1] == sizes[0] // 4
    assert rounded.manifest.kv_bytes_per_token == tiny_model.manifest.kv_bytes_per_token // 4
    off = np.linalg.norm(found[1] - found[0], axis=-1) / np.linalg.norm(found[0], axis=-1)
    assert 0 < off.max() < 0.1


def test_what_is_kept_of_a_position_depends_on_no_run(rounded: Model) -> None:
    kept = []
    for lengths in ((16,), (3, 5), (1,)):
        segment = whole(rounded)
        logits(segment, PROMPT[:16], lengths)
        first = segment.kv.buffer(0, 0)
        assert first is not None
        kept.append(first.data[0, :, :16].copy())
    assert all((rows == kept[0]).all() for rows in kept), "of the first block, which has the same input in any run"


def test_texts_of_different_lengths_share_a_run(rounded: Model) -> None:
    texts = (PROMPT[:9], PROMPT[3:16])
    alone = [logits(whole(rounded), text, (len(text) - 1, 1))[-1] for text in texts]
    segment = whole(rounded)
    for slot, text in enumerate(texts):
        segment.ids_input(len(text) - 1)[:] = text[:-1]
        segment.run(slot, (0,), len(text) - 1)
    segment.ids_input(2)[:] = [text[-1] for text in texts]
    together = segment.run(0, [len(text) - 1 for text in texts], 1).output
    for row, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_cuts_change_nothing(rounded: Model) -> None:
    units = rounded.manifest.num_units
    expected = Chain(rounded).greedy(PROMPT, 12)
    assert Chain(rounded, (1, 3)).greedy(PROMPT, 12) == expected
    assert Chain(rounded, range(1, units)).greedy(PROMPT, 12) == expected


def test_scales_hold_for_positions_that_no_passage_has(tiny_model: Model, rounded: Model) -> None:
    """A turn by a position mixes the two channels of a pair, so that either may become as large as both together."""
    segment = whole(tiny_model, context_tokens=250)
    logits(segment, list(range(3, 253)), (16,))
    assert rounded.scales
    for layer in rounded.scales.layers:
        buffer = segment.kv.buffer(layer.layer, 0)
        assert buffer is not None
        keys, scales = buffer.data[0], np.array(layer.key).reshape(layer.heads, 1, -1)
        assert (np.abs(keys) <= 127 * scales).mean() > 0.999
        half = scales.shape[-1] // 2
        assert (scales[..., :half] == scales[..., half:]).all()


def test_segments_give_their_known_answers(rounded: Model, tiny_model: Model) -> None:
    units = rounded.manifest.num_units
    for start, stop in ((0, units), (0, 2), (2, 4), (3, units)):
        made = check(rounded, open_segment(rounded, start, stop, wire="fp16"), start, stop)
        assert made.gives_the_same_bits
    plain, other = (open_segment(model, 0, 2).spec.graph for model in (tiny_model, rounded))
    assert plain != other


def test_figures_are_kept_beside_the_model_until_another_version_makes_others(
    tiny_model: Model, report: KvReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_kv(tiny_model.folder) == report
    assert report.rows > 300
    assert report.argmax_agreement > 0.9
    assert report.perplexity == pytest.approx(report.float_perplexity, rel=0.05)
    assert measure_kv(tiny_model).scales.fingerprint == report.scales.fingerprint
    monkeypatch.setattr("orchestrator.model.kv_calibration.VERSION", 2)
    assert read_kv(tiny_model.folder) is None
    (tiny_model.folder / KV_FILE).write_text("{", "utf-8")
    assert read_kv(tiny_model.folder) is None
    monkeypatch.undo()
    measure_kv(tiny_model)


def test_a_segment_is_refused_that_keeps_others_than_the_plan(tiny_model: Model, rounded: Model) -> None:
    plain, other = (tuple(layer.as_told() for layer in model.manifest.layers) for model in (tiny_model, rounded))
    assert [layer.scales for layer in plain] == [None] * 4
    with pytest.raises(SegmentUnusable, match="KV cache of int8"):
        whole(rounded, kv_layers=plain)
    with pytest.raises(SegmentUnusable, match="KV cache of float32"):
        whole(tiny_model, kv_layers=other)


def test_an_old_runtime_is_told_what_to_do(rounded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ort, "__version__", "1.26.0")
    with pytest.raises(SegmentUnusable, match=r"need ONNX Runtime 1\.29 or newer, here is 1\.26\.0: .* --kv auto"):
        whole(rounded)


def test_the_worker_finds_scales_where_there_are_none(tiny_store: ModelStore, rounded: Model) -> None:
    worker = Worker(tiny_store, wake=lambda: None)
    (rounded.folder / KV_FILE).unlink()
    try:
        worker.submit(OpenModel("tiny", rounds_kv=True))
        opened = worker.results.get(timeout=DEADLINE_S)
        assert isinstance(opened, ModelOpened)
        manifest = opened.model.manifest
        assert (manifest.kv_dtype, manifest.kv_scales) == ("int8", rounded.manifest.kv_scales)
        assert all(layer.scales for part in opened.model.probe_parts for layer in part.kv_layers)
        ring = (StageRef(node="alfa", start=0, stop=6),)
        worker.submit(BuildSegments(1, "tiny", ring, "fp32", 64))
        built = worker.results.get(timeout=DEADLINE_S)
        assert isinstance(built, SegmentsBuilt)
        assert {layer.scales for layer in built.segments[0].kv_layers} == {manifest.kv_scales}
    finally:
        worker.close()


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Slow ones: answers last longer than moves."""
    with running_nodes(NAMES, mosquitto.url, tmp_path, "--emulate-speed", "0.02") as running:
        yield running


def test_moves_in_mid_answer(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], tiny_model: Model, rounded: Model
) -> None:
    """The same text as without, no position computed twice, and a quarter of the bytes for as many rows."""
    homes = {name: node.home for name, node in nodes.items()}
    sent = []
    for model in (tiny_model, rounded):
        with Ring(mosquitto.url, model) as ring:
            ring.deploy(homes, (0, 3, 6), order=("alfa", "bravo"), **PLAN)
            undisturbed = ring.ask(PROMPT, 120)
            answer = ring.open(PROMPT, 120)
            for order, cuts in ((("alfa", "charlie", "bravo"), (0, 2, 4, 6)), (("bravo", "alfa"), (0, 3, 6))):
                count = len(answer.ids) + 10
                ring.wait("tokens", lambda: len(answer.ids) >= count)  # noqa: B023
                move(ring, homes, order, cuts, **PLAN)
                rows = ring.held[0].requests[0].valid_tokens
                sent.append(sum(copied.sent_bytes for copied in ring.copied if copied.final) / rows)
            assert not answer.finish
            ring.finish(answer)
            assert answer.ids == undisturbed.ids
            assert answer.timings[0].positions == len(PROMPT) + 119, "no position twice"
    plain, other = sent[:2], sent[2:]
    assert [4 * each for each in other] == pytest.approx(plain, rel=0.1)
    assert VALUE_BYTES[Dtype.INT8] == 1 < KV_HEADER_BYTES


def test_an_heir_has_no_buffers_that_others_rounded(rounded: Model) -> None:
    """Rows that were rounded by other scales mean something else."""
    layers = tuple(layer.as_told() for layer in rounded.manifest.layers)
    others = tuple(dataclasses.replace(layer, scales="others") for layer in layers)
    assert set(layers).isdisjoint(others)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_attention_with_rounded_rows_is_tried(head_dim: int) -> None:
    from edge_node.runtime.attention_trial import keeps_bits
    from schemas.run_lengths import AS_WANTED, CANDIDATES

    assert any(keeps_bits(runs, head_dim, "int8", 1) for runs in CANDIDATES)
    assert isinstance(keeps_bits(AS_WANTED, head_dim, "int8", 1), bool)
