"""Segments of a real conversion with corrections among their packed weights: rings, checks, and machines without."""

from __future__ import annotations

import itertools
import logging
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_node.runtime import segment as segment_module
from edge_node.runtime import segment_runner
from edge_node.runtime.packed_corrections import opening
from edge_node.runtime.packed_corrections.trial import works_here
from edge_node.runtime.segment import Segment
from edge_node.runtime.segment_runner import SegmentRunner
from edge_node.storage.blob_store import BlobStore
from orchestrator.model.model import Model
from schemas.codec import Dtype
from schemas.messages import BlobRef
from tests.support.known_answers import check, known_answers
from tests.support.segments import open_segment, segment_spec
from tests.support.tiny_int4 import tiny_int4

pytestmark = pytest.mark.skipif(not works_here(4, 32, 1), reason="this processor's kernels have no such sums")
IDS = range(20, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Blocks of four bits, each with a correction."""
    return tiny_int4(tmp_path_factory.mktemp("packed"), "fast")


def chain(model: Model, *cuts: int) -> list[Segment]:
    places = [0, *cuts, model.manifest.num_units]
    return [open_segment(model, start, stop) for start, stop in itertools.pairwise(places)]


def logits(segments: list[Segment]) -> np.ndarray:
    """Of the last of ``IDS``."""
    segments[0].ids_input(len(IDS))[:] = IDS
    output = segments[0].run(0, (0,), len(IDS)).output
    for segment in segments[1:]:
        segment.take_in(output.tobytes(), Dtype.FP32, len(IDS))
        output = segment.run(0, (0,), len(IDS)).output
    return output.copy()


def test_wherever_it_is_cut_logits_are_the_same(model: Model) -> None:
    whole = chain(model)
    assert whole[0].has_packed_corrections
    expected = logits(whole)
    for cuts in ((1,), (2, 4), (1, 2, 3, 4, 5)):
        ring = chain(model, *cuts)
        assert (logits(ring) == expected).all()
        # Embedding and head of this model have eight bits, without corrections.
        assert all(segment.has_packed_corrections for segment in ring[1:-1])


def test_they_are_those_of_the_graph_but_for_rounding(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = logits(chain(model))
    monkeypatch.setattr(segment_module, "open_with_corrections", lambda *_: None)
    plain = chain(model)
    assert not plain[0].has_packed_corrections
    found = logits(plain)
    assert np.abs(packed - found).max() <= 0.05 * np.abs(found).max()


def test_every_segment_gives_its_known_answer(model: Model) -> None:
    units = model.manifest.num_units
    for start, stop in ((0, units), (0, 2), (1, 3), (units - 1, units)):
        made = check(model, open_segment(model, start, stop), start, stop)
        made.repeat()
        assert made.gives_the_same_bits


def test_where_all_machines_give_the_same_bits_they_run_the_same_graph(model: Model) -> None:
    spec = segment_spec(model, 1, 3, same_bits=True)
    assert not Segment(spec, model.blobs_folder / spec.graph.sha256, threads=1).has_packed_corrections


def test_two_segments_in_one_process(model: Model) -> None:
    """The second one's packed weights are those of the first, which stands in memory with its corrections."""
    first, second = open_segment(model, 1, 3), open_segment(model, 1, 3)
    assert first.has_packed_corrections
    assert second.has_packed_corrections
    hidden = np.random.default_rng(0).standard_normal((4, model.manifest.boundaries[0].width)).astype(np.float32)
    outputs = []
    for segment in (first, second):
        segment.take_in(hidden.tobytes(), Dtype.FP32, 4)
        outputs.append(segment.run(0, (0,), 4).output.copy())
    assert (outputs[0] == outputs[1]).all()


def test_an_answer_that_is_wrong_has_it_opened_as_it_is(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a newer ONNX Runtime whose packed weights have something else where the sums are sought."""
    monkeypatch.setattr(opening, "replace", lambda _: "")
    runner = SegmentRunner(
        BlobStore(model.blobs_folder, limit_bytes=1 << 40), threads=1, emulated_speed=1.0, on_load_event=lambda: None
    )
    made = known_answers(model).of(1, 3)
    spec = segment_spec(model, 1, 3, answer=BlobRef(sha256=made.sha256, size_bytes=made.size_bytes))
    opened: list[weakref.ref[Segment]] = []

    class Watched(Segment):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert not any(one() for one in opened), "there may be no room for two"
            super().__init__(*arguments, **options)
            opened.append(weakref.ref(self))

    monkeypatch.setattr(segment_runner, "Segment", Watched)
    with caplog.at_level(logging.WARNING):
        segment = runner._opened(spec, None, None)
    assert len(opened) == 2
    assert not segment.has_packed_corrections
    assert "its answer to a known input is wrong" in caplog.text
    check(model, segment, 1, 3)


def test_a_segment_that_has_no_answer_to_give_is_opened_as_it_is(model: Model) -> None:
    runner = SegmentRunner(
        BlobStore(model.blobs_folder, limit_bytes=1 << 40), threads=1, emulated_speed=1.0, on_load_event=lambda: None
    )
    assert not runner._opened(segment_spec(model, 1, 3), None, None).has_packed_corrections


def test_memory_that_can_not_be_written_costs_speed_only(
    model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opening, "replace", refused)
    with caplog.at_level(logging.WARNING):
        segment = open_segment(model, 1, 3)
    assert not segment.has_packed_corrections
    assert "corrections of weights are inputs of products, which is slower: Permission denied" in caplog.text
    check(model, segment, 1, 3)
    assert not list(Path(model.blobs_folder).glob("*.scratch"))
