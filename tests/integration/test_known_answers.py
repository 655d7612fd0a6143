"""Segments and their known answers: whole ones give them, damaged ones do not, whatever is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_node.errors import SegmentUnusable, WrongAnswers
from edge_node.runtime.known_answers import answer
from orchestrator.effects import BuildSegments, OpenModel
from orchestrator.events import ModelOpened, SegmentsBuilt
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.service.worker import Worker
from schemas.known_answer import decode_known_answer
from schemas.messages import StageRef, WireDtype
from tests.support.known_answers import check
from tests.support.polling import DEADLINE_S
from tests.support.segments import open_segment, segment_spec


def ranges(model: Model) -> list[tuple[int, int]]:
    """The whole, both ends, a middle, single units."""
    units = model.manifest.num_units
    return [(0, units), (0, 1), (0, 3), (1, 2), (2, units - 1), (units - 2, units), (units - 1, units)]


@pytest.mark.parametrize("wire", ["fp32", "fp16"])
def test_every_segment_gives_its_known_answer(tiny_model: Model, wire: WireDtype) -> None:
    for start, stop in ranges(tiny_model):
        segment = open_segment(tiny_model, start, stop, wire=wire)
        made = check(tiny_model, segment, start, stop)
        known = made._known
        made.repeat()
        found = answer(segment, known)
        expected = np.frombuffer(known.expected, "<f4").reshape(known.rows, known.values)
        # A boundary inside a segment is not rounded; the input of one that takes halves is.
        assert np.abs(found - expected).max() <= (0 if wire == "fp32" else 2e-2) * np.abs(expected).max()
        assert made.gives_the_same_bits


def test_short_chunks_give_the_same(tiny_model: Model) -> None:
    units = tiny_model.manifest.num_units
    for chunk_tokens in (2, 3, 4):
        for start, stop in ((0, 3), (2, units)):
            check(tiny_model, open_segment(tiny_model, start, stop, chunk_tokens=chunk_tokens), start, stop)


def test_a_check_leaves_requests_alone(tiny_model: Model) -> None:
    """Rows in the cache, and what is bound, are as before."""
    segment = open_segment(tiny_model, 0, tiny_model.manifest.num_units)
    plain = open_segment(tiny_model, 0, tiny_model.manifest.num_units)
    made = check(tiny_model, segment, 0, tiny_model.manifest.num_units)
    logits = []
    for one in (segment, plain):
        one.ids_input(6)[:] = range(20, 26)
        one.run(1, (0,), 6)
        for position in range(6, 12):
            if one is segment:
                made.repeat()
            one.ids_input(1)[:] = position
            logits.append(one.run(1, (position,), 1).output.copy())
    for checked, unchecked in zip(logits[:6], logits[6:], strict=True):
        assert (checked == unchecked).all()


def damaged_copy(model: Model, folder: Path, damage: Callable[[np.ndarray], None]) -> Path:
    """The model's files with every weight blob of its blocks damaged."""
    shutil.copytree(model.blobs_folder, folder)
    for blob in model.manifest.blobs_of(2, 3):
        data = np.fromfile(folder / blob.sha256, np.uint8)
        damage(data[: data.size // 4 * 4].view(np.float32))
        data.tofile(folder / blob.sha256)
    return folder


def zeros(weights: np.ndarray) -> None:
    weights[:] = 0


def one_that_is_not_a_number(weights: np.ndarray) -> None:
    weights[weights.size // 2] = np.nan


def shuffled(weights: np.ndarray) -> None:
    np.random.default_rng(0).shuffle(weights)


def scaled(weights: np.ndarray) -> None:
    weights *= 1.5


@pytest.mark.parametrize("damage", [zeros, one_that_is_not_a_number, shuffled, scaled])
@pytest.mark.parametrize("cut", [(2, 3), (0, 4), (1, 6)])
def test_damaged_weights_are_found_at_load(
    tiny_model: Model, tmp_path: Path, damage: Callable[[np.ndarray], None], cut: Sequence[int]
) -> None:
    start, stop = cut
    segment_spec(tiny_model, start, stop)
    folder = damaged_copy(tiny_model, tmp_path / "blobs", damage)
    with pytest.raises(WrongAnswers, match=r"its answer to a known input is wrong: row \d is off by"):
        check(tiny_model, open_segment(tiny_model, start, stop, folder=folder), start, stop)


def test_a_single_bit_is_found_later(tiny_model: Model, tmp_path: Path) -> None:
    """The lowest bit of one weight, in a file that is mapped: the answer is not the first any more, to the bit."""
    folder = tmp_path / "blobs"
    segment_spec(tiny_model, 0, 1)
    shutil.copytree(tiny_model.blobs_folder, folder)
    segment = open_segment(tiny_model, 0, 1, folder=folder)
    made = check(tiny_model, segment, 0, 1)
    made.repeat()
    assert made._first is not None
    (blob,) = tiny_model.manifest.blobs_of(0, 1)
    table = np.fromfile(folder / blob.sha256, np.float32)
    (place,) = np.flatnonzero(table == made._first[3, 7])
    with (folder / blob.sha256).open("r+b") as file:
        file.seek(4 * place)
        file.write(bytes([table[place].tobytes()[0] ^ 1]))
    with pytest.raises(WrongAnswers, match="has changed since it was loaded: 1 of"):
        made.repeat()


def test_the_answer_of_another_segment_is_no_use(tiny_model: Model) -> None:
    with pytest.raises(SegmentUnusable, match="that of another segment"):
        check(tiny_model, open_segment(tiny_model, 0, 2), 1, 3)


def test_an_answer_is_made_once_and_goes_with_its_model(
    tiny_store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "home")
    shutil.copytree(tiny_store.home, store.home)
    model = store.open("tiny")
    for path in (model.folder / "segments").iterdir():
        path.unlink()
    checked: list[bool] = []
    made = KnownAnswers(model, lambda: checked.append(True)).of(1, 3)
    assert checked == [True]
    path = model.blobs_folder / made.sha256
    known = decode_known_answer(path.read_bytes())
    assert (known.rows, known.width_in, known.width_out) == (5, 64, 64)
    again = KnownAnswers(store.open("tiny"), lambda: checked.append(True))
    monkeypatch.setattr(KnownAnswers, "_run", None)
    assert again.of(1, 3) == made
    again.of(0, 3)  # another cut of the same states
    assert checked == [True]
    store.rm("tiny")
    assert not path.exists()


@pytest.mark.parametrize("runs", [True, False])
def test_a_model_that_can_not_be_run_here_is_served_unchecked(
    tiny_store: ModelStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on an orchestrator with too little memory for one of its units; with a word in the log."""
    store = ModelStore(tmp_path / "home")
    shutil.copytree(tiny_store.home, store.home)
    for path in (store.open("tiny").folder / "segments").iterdir():
        path.unlink()

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("bad allocation")

    if not runs:
        monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    worker = Worker(store, wake=lambda: None)
    try:
        worker.submit(OpenModel("tiny"))
        assert isinstance(worker.results.get(timeout=DEADLINE_S), ModelOpened)
        worker.submit(BuildSegments(1, "tiny", (StageRef(node="a", start=0, stop=6),), "fp32", 64))
        built = worker.results.get(timeout=DEADLINE_S)
    finally:
        worker.close()
    assert isinstance(built, SegmentsBuilt)
    (segment,) = built.segments
    assert (segment.answer is not None) is runs
    assert ("unit 0 can't be run here: bad allocation" in caplog.text) is not runs
