"""Keys and values in fp16, in int8 and in either: fewer bytes in memory and in moves, and nearly the same logits."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from broker.local_broker import LocalBroker
from edge_node.errors import SegmentUnusable
from edge_node.migration.handover import Handover
from edge_node.requests.kv_slots import SlotTable
from edge_node.runtime import run_choice, session
from edge_node.runtime.segment import Segment
from edge_node.stage_spec import StageSpec
from orchestrator import cli
from orchestrator.commands.plan import describe
from orchestrator.effects import BuildSegments, OpenModel
from orchestrator.events import ModelOpened, SegmentsBuilt
from orchestrator.model.kv_calibration import KV_FILE, MOST_PERPLEXITY, KvReport, measure_kv, read_kv
from orchestrator.model.kv_rounding import IN_HALVES, KvRounding
from orchestrator.model.manifest import to_json
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from orchestrator.service.config import ServiceConfig
from orchestrator.service.worker import Worker
from schemas.messages import Basis, Epoch, RoundedKv, StageRef
from schemas.run_lengths import cut_into_runs
from tests.support.in_process import converting_here
from tests.support.known_answers import check
from tests.support.live_move import move
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S
from tests.support.ring import Ring
from tests.support.segments import open_segment
from tests.support.services import QUICK, patient_client, running_service, wait_until_serving
from tests.support.simulated_ring import prepare_segment
from tests.support.tiny_models import make_checkpoint

PROMPT = list(range(7, 40))
NAMES = ("alfa", "bravo", "charlie")
PLAN = {"context_tokens": 256, "chunk_tokens": 8}
SHARPER = 32
"""Times as long queries and keys."""


@pytest.fixture(scope="module")
def tiny_store(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A copy: tests of other processes have the same store, and these write into a model's folder."""
    store = ModelStore(tmp_path_factory.mktemp("rounded") / "home")
    shutil.copytree(tiny_store.home, store.home, ignore=shutil.ignore_patterns("in-use"))
    return store


@pytest.fixture(scope="module")
def tiny_model(tiny_store: ModelStore) -> Model:
    return tiny_store.open("tiny")


@pytest.fixture(scope="module")
def report(tiny_model: Model) -> KvReport:
    return measure_kv(tiny_model)


@pytest.fixture(scope="module")
def kinds(tiny_model: Model, report: KvReport) -> dict[str, Model]:
    """Of "mixed" all blocks but the second are in int8."""
    mixed = KvRounding(tuple(scales for scales in report.scales if scales.layer != 1))
    roundings = {"fp16": IN_HALVES, "int8": KvRounding(report.scales), "mixed": mixed}
    return {name: tiny_model.with_rounding(rounding) for name, rounding in roundings.items()}


@pytest.fixture
def rounded(kinds: dict[str, Model]) -> Model:
    return kinds["int8"]


@pytest.fixture(params=["fp16", "int8", "mixed"])
def either(request: pytest.FixtureRequest, kinds: dict[str, Model]) -> Model:
    return kinds[request.param]


def logits(segment: Segment, ids: Sequence[int], lengths: Sequence[int]) -> NDArray[np.float32]:
    """Those of a whole model after each token of a text that comes in runs of these lengths."""
    rows = []
    for start, stop in cut_into_runs(len(ids), lengths):
        segment.ids_input(stop - start)[:] = ids[start:stop]
        rows.append(segment.run(0, (start,), stop - start, logits=stop - start).output.copy())
    return np.concatenate(rows)


def whole(model: Model, **changes: object) -> Segment:
    return open_segment(model, 0, model.manifest.num_units, **changes)


@pytest.mark.parametrize(("kind", "sixteenths", "most"), [("fp16", 8, 1e-2), ("int8", 4, 0.1), ("mixed", 5, 0.1)])
def test_less_memory_and_nearly_the_same_logits(
    tiny_model: Model, kinds: dict[str, Model], kind: str, sixteenths: int, most: float
) -> None:
    other = kinds[kind]
    sizes, found = [], []
    for model in (tiny_model, other):
        segment = whole(model)
        sizes.append(sum(buffer.data.nbytes for buffer in segment.kv.buffers))
        found.append(logits(segment, PROMPT, (16, 1)))
    assert 16 * sizes[1] == sixteenths * sizes[0]
    assert 16 * other.manifest.kv_bytes_per_token == sixteenths * tiny_model.manifest.kv_bytes_per_token
    off = np.linalg.norm(found[1] - found[0], axis=-1) / np.linalg.norm(found[0], axis=-1)
    assert 0 < off.max() < most


def test_what_is_kept_of_a_position_depends_on_no_run(either: Model) -> None:
    kept = []
    for lengths in ((16,), (3, 5), (1,)):
        segment = whole(either)
        logits(segment, PROMPT[:16], lengths)
        first = segment.kv.buffer(0, 0)
        assert first is not None
        kept.append(first.data[0, :, :16].copy())
    assert all((rows == kept[0]).all() for rows in kept), "of the first block, which has the same input in any run"


def test_texts_of_different_lengths_share_a_run(either: Model) -> None:
    texts = (PROMPT[:9], PROMPT[3:16])
    alone = [logits(whole(either), text, (len(text) - 1, 1))[-1] for text in texts]
    segment = whole(either)
    for slot, text in enumerate(texts):
        segment.ids_input(len(text) - 1)[:] = text[:-1]
        segment.run(slot, (0,), len(text) - 1)
    segment.ids_input(2)[:] = [text[-1] for text in texts]
    together = segment.run(0, [len(text) - 1 for text in texts], 1).output
    for row, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_cuts_change_nothing(either: Model) -> None:
    units = either.manifest.num_units
    expected = Chain(either).greedy(PROMPT, 12)
    assert Chain(either, (1, 3)).greedy(PROMPT, 12) == expected
    assert Chain(either, range(1, units)).greedy(PROMPT, 12) == expected


def test_scales_hold_for_positions_that_no_passage_has(tiny_model: Model, rounded: Model) -> None:
    """A turn by a position mixes the two channels of a pair, so that either may become as large as both together."""
    segment = whole(tiny_model, context_tokens=250)
    logits(segment, list(range(3, 253)), (16,))
    assert rounded.rounding
    for layer in rounded.rounding.layers:
        buffer = segment.kv.buffer(layer.layer, 0)
        assert buffer is not None
        keys, scales = buffer.data[0], np.array(layer.key).reshape(layer.heads, 1, -1)
        assert (np.abs(keys) <= 127 * scales).mean() > 0.999
        half = scales.shape[-1] // 2
        assert (scales[..., :half] == scales[..., half:]).all()


def test_segments_give_their_known_answers(either: Model, tiny_model: Model) -> None:
    units = either.manifest.num_units
    for start, stop in ((0, units), (0, 2), (2, 4), (3, units)):
        made = check(either, open_segment(either, start, stop, wire="fp16"), start, stop)
        assert made.gives_the_same_bits
    plain, other = (open_segment(model, 0, 2).spec.graph for model in (tiny_model, either))
    assert plain != other


def test_figures_are_kept_beside_the_model_until_another_version_makes_others(
    tiny_model: Model, report: KvReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_kv(tiny_model.folder) == report
    assert report.rows > 300
    assert report.argmax_agreement > 0.9
    assert report.perplexity == pytest.approx(report.float_perplexity, rel=MOST_PERPLEXITY)
    assert measure_kv(tiny_model).rounding == report.rounding
    monkeypatch.setattr("orchestrator.model.kv_calibration.VERSION", 1)
    assert read_kv(tiny_model.folder) is None
    (tiny_model.folder / KV_FILE).write_text("{", "utf-8")
    assert read_kv(tiny_model.folder) is None
    monkeypatch.undo()
    measure_kv(tiny_model)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model whose first block looks at few positions, by scores that rounding shifts."""
    folder = tmp_path_factory.mktemp("sharp")
    weights = make_checkpoint("llama", folder / "checkpoint") / "model.safetensors"
    tensors = load_file(weights)
    for name in ("q_proj", "k_proj"):
        tensors[f"model.layers.0.self_attn.{name}.weight"] *= SHARPER
    save_file(tensors, weights, {"format": "pt"})
    with converting_here():
        store = ModelStore(folder / "home")
        store.add(str(folder / "checkpoint"), name="sharp", precision="fp32", profile="exact")
    return store.open("sharp")


def test_a_block_that_int8_would_change_much_keeps_halves(sharp: Model) -> None:
    found = measure_kv(sharp)
    assert found.halves == (0,)
    assert [layer.layer for layer in found.rounding.layers] == [1, 2, 3]
    assert found.share == 5 / 16
    assert math.log(found.perplexity / found.float_perplexity) + found.error < math.log1p(MOST_PERPLEXITY)
    assert "in 3 of 4 blocks, in fp16 in the others, 0.31 of their bytes" in found.summary()
    assert sharp.with_rounding(found.rounding).manifest.kv_halves == 1


def test_where_all_blocks_keep_halves_it_is_the_same_as_fp16(tiny_model: Model, report: KvReport) -> None:
    rounding = dataclasses.replace(report, halves=(0, 1, 2, 3)).rounding
    assert rounding == IN_HALVES
    assert tiny_model.with_rounding(rounding).manifest.kv_dtype == "float16"


def test_the_model_shows_what_int8_costs(
    tiny_store: ModelStore, report: KvReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").symlink_to(tiny_store.home)
    show = ["--home", str(tmp_path), "model", "show", "tiny"]
    assert cli.run(show) == 0
    assert report.summary() in capsys.readouterr().out
    assert cli.run([*show, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["kv_int8"]
    assert (told["rows"], told["perplexity"], told["halves"]) == (report.rows, report.perplexity, list(report.halves))


def test_a_segment_is_refused_that_keeps_others_than_the_plan(tiny_model: Model, kinds: dict[str, Model]) -> None:
    rounded, mixed = kinds["int8"], kinds["mixed"]
    models = (tiny_model, rounded, kinds["fp16"], mixed)
    told = [tuple(layer.as_told() for layer in model.manifest.layers) for model in models]
    assert [layers[0].rounding for layers in told[:3]] == [None, rounded.manifest.kv_rounding, "fp16"]
    name = mixed.manifest.kv_rounding
    assert [layer.rounding for layer in told[3]] == [name, "fp16", name, name]
    assert name not in (rounded.manifest.kv_rounding, "fp16"), "rows of one are none of the other"
    for model, dtype, others in (
        (rounded, "int8", told[0]), (rounded, "int8", told[2]), (tiny_model, "float32", told[1]),
        (tiny_model, "float32", told[2]), (models[2], "float16", told[1]), (mixed, "float16", told[1]),
        (mixed, "int8", told[2]), (rounded, "int8", told[3]),
    ):  # fmt: skip
        with pytest.raises(SegmentUnusable, match=f"KV cache of {dtype}"):
            whole(model, kv_layers=others)


def test_an_old_runtime_is_told_what_to_do(rounded: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ort, "__version__", "1.26.0")
    with pytest.raises(SegmentUnusable, match=r"need ONNX Runtime 1\.29 or newer, here is 1\.26\.0: .* --kv auto"):
        whole(rounded)


def test_the_worker_finds_scales_where_there_are_none(
    tiny_store: ModelStore, tiny_model: Model, report: KvReport
) -> None:
    worker = Worker(tiny_store, wake=lambda: None)
    (tiny_model.folder / KV_FILE).unlink()
    try:
        worker.submit(OpenModel("tiny", kv_dtype="int8"))
        opened = worker.results.get(timeout=DEADLINE_S)
        assert isinstance(opened, ModelOpened)
        manifest = opened.model.manifest
        assert (manifest.kv_dtype, manifest.kv_rounding) == ("int8", report.rounding.name)
        assert all(layer.rounding for part in opened.model.probe_parts for layer in part.kv_layers)
        ring = (StageRef(node="alfa", start=0, stop=6),)
        worker.submit(BuildSegments(1, "tiny", ring, "fp32", 64))
        built = worker.results.get(timeout=DEADLINE_S)
        assert isinstance(built, SegmentsBuilt)
        assert [layer.rounding for layer in built.segments[0].kv_layers] == [
            report.rounding.name_of(layer) for layer in range(4)
        ]
    finally:
        worker.close()


def test_moves_in_mid_answer(mosquitto: LocalBroker, nodes: dict[str, NodeProcess], either: Model) -> None:
    """The same text as without, no position computed twice, and a byte or two for each value."""
    homes = {name: node.home for name, node in nodes.items()}
    with Ring(mosquitto.url, either) as ring:
        ring.deploy(homes, (0, 3, 6), order=("alfa", "bravo"), **PLAN)
        undisturbed = ring.ask(PROMPT, 120)
        answer = ring.open(PROMPT, 120)
        moves = ((("alfa", "charlie", "bravo"), (0, 2, 4, 6), (1, 2)), (("bravo", "alfa"), (0, 3, 6), range(4)))
        for order, cuts, moved in moves:
            count = len(answer.ids) + 10
            ring.wait("tokens", lambda: len(answer.ids) >= count)  # noqa: B023
            move(ring, homes, order, cuts, **PLAN)
            rows = ring.held[0].requests[0].valid_tokens
            values = sum(either.manifest.layers[layer].bytes_per_token for layer in moved)
            assert sum(copied.sent_bytes for copied in ring.copied if copied.final) == rows * values
        assert not answer.finish
        ring.finish(answer)
        assert answer.ids == undisturbed.ids
        assert answer.timings[0].positions == len(PROMPT) + 119, "no position twice"


def test_an_heir_shares_no_rows_that_others_rounded(rounded: Model) -> None:
    """Rows that were rounded by other scales mean something else, on the same node, too."""
    layers = tuple(layer.as_told() for layer in rounded.manifest.layers)
    others = tuple(dataclasses.replace(layer, rounding="others") for layer in layers)
    command = prepare_segment(("alfa",), 0, Epoch(generation=1, counter=1), kv_layers=layers)
    old = SimpleNamespace(spec=StageSpec.of(command), loaded=True, requests={}, slots=SlotTable(2), released=False)
    basis = Basis(epoch=command.epoch, ring=command.ring)
    for kept, is_shared in ((layers, True), (others, False)):
        spec = StageSpec.of(dataclasses.replace(command, epoch=Epoch(generation=1, counter=2), kv_layers=kept))
        handover = Handover(spec, basis, {old.spec.key: old}, patience_s=1.0)  # type: ignore[dict-item]
        assert handover.same_segment is is_shared
        assert handover._is_complete is is_shared, "else what is there is computed again"


def test_a_service_with_and_without(
    mosquitto: LocalBroker, tiny_store: ModelStore, tiny_model: Model, report: KvReport, tmp_path: Path
) -> None:
    """The plan says so, and counts what is kept; it is another plan each time."""
    wishes: tuple[tuple[RoundedKv | None, str, int], ...] = (
        (None, "fp32", 16),
        ("fp16", "fp16", 8),
        ("int8", "int8", 5),
    )
    mixed = dataclasses.replace(report, halves=(1,))
    (tiny_model.folder / KV_FILE).write_text(to_json(mixed), "utf-8")
    found = []
    with running_nodes(NAMES[:2], mosquitto.url, tmp_path):
        for wanted, shown, sixteenths in wishes:
            config = ServiceConfig(
                broker_url=mosquitto.url, data_dir=tmp_path, models_dir=tiny_store.home, timing=QUICK,
                context_tokens=200, slots=2, model="tiny", min_nodes=2, kv_dtype=wanted,
            )  # fmt: skip
            with running_service(config), patient_client(mosquitto.url) as client:
                wait_until_serving(client)
                assert "".join(client.ask(prompt="one two three", max_tokens=20))
                plan = client.plan()
                assert plan.kv_dtype == shown
                told = describe(plan.pipelines[0])
                assert (f"keys and values in {shown}" in told) is bool(wanted)
                assert ("(in 1 of 4 blocks in fp16)" in told) is (wanted == "int8")
                found.append((sum(stage.kv_bytes for stage in plan.stages) / sixteenths, plan.epoch))
    (tiny_model.folder / KV_FILE).write_text(to_json(report), "utf-8")
    assert len({values for values, _ in found}) == 1
    assert len({epoch for _, epoch in found}) == len(wishes)


@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_attention_with_rounded_rows_is_tried(head_dim: int) -> None:
    from edge_node.runtime.attention_trial import keeps_bits
    from schemas.run_lengths import AS_WANTED, CANDIDATES

    assert any(keeps_bits(runs, head_dim, "int8", 1) for runs in CANDIDATES)
    assert isinstance(keeps_bits(AS_WANTED, head_dim, "int8", 1), bool)


def test_attention_is_tried_with_each_type_that_blocks_keep(
    kinds: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = set()
    monkeypatch.setattr(run_choice, "_held", {})
    monkeypatch.setattr(run_choice, "keeps_bits", lambda runs, head_dim, dtype, threads: bool(tried.add(dtype) or True))
    monkeypatch.setattr(run_choice, "_outputs", lambda *_: [])
    whole(kinds["mixed"], profile="steady").choose_runs()
    assert tried == {"float32", "float16", "int8"}
