"""How good a model is: figures that agree with transformers, tell good models from bad ones, and choose the wire."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from orchestrator.model import quality
from orchestrator.model.graph import read_model, resolve
from orchestrator.model.model import GRAPH_FILE, Model
from orchestrator.model.passages import PASSAGES, encode_passages
from orchestrator.model.quality import even_cuts, measure_quality, predict
from orchestrator.model.quality_report import LARGEST_LOSS, ROWS_FILE, Quality, QualityReport, WireQuality, read_rows
from orchestrator.model.split import plan_split
from orchestrator.model.store import ModelStore
from orchestrator.model.subject import Subject
from orchestrator.model.verify import Chain
from orchestrator.model.wire import as_received
from tests.support.in_process import converting_here
from tests.support.tiny_models import make_checkpoint

INT8 = {"int8": functools.partial(as_received, wire="int8")}


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with converting_here():
        yield


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelStore]:
    """A store with a family's model in int4 and fp32, made once."""
    folder = tmp_path_factory.mktemp("quality")

    def of(family: str) -> ModelStore:
        store = ModelStore(folder / family / "home")
        if not store.names():
            source = str(make_checkpoint(family, folder / family / "source"))
            for precision in ("fp32", "int4"):
                store.add(source, precision, precision=precision)
        return store

    return of


def subject_of(model: Model) -> Subject:
    plan = plan_split(resolve(read_model(model.folder / GRAPH_FILE), model.blobs_folder))
    return Subject(plan, model.blobs_folder, model.manifest.layers)


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_the_source_is_what_transformers_computes_text_by_text(
    stores: Callable[[str], ModelStore], family: str
) -> None:
    import torch
    import transformers

    store = stores(family)
    rows = read_rows(store.open("int4").folder / ROWS_FILE)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(store.home.parent / "source"), dtype=torch.float32)
    best: list[int] = []
    losses: list[float] = []
    for ids in rows.passages:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        best += logits.argmax(-1).tolist()
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
    assert len(rows.passages) == 10
    assert list(rows.best) == best
    assert rows.losses == pytest.approx(losses, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_float32_is_its_source_and_four_bits_are_not(stores: Callable[[str], ModelStore], family: str) -> None:
    store = stores(family)
    same, rounded = store.quality("fp32"), store.quality("int4")
    assert same is not None
    assert rounded is not None
    assert same.model.argmax_agreement == 1.0
    assert same.model.perplexity == pytest.approx(same.model.source_perplexity, rel=1e-4)
    assert rounded.model.source_perplexity == same.model.source_perplexity
    assert rounded.model.argmax_agreement < 0.9
    assert rounded.source_bytes == (store.home.parent / "source" / "model.safetensors").stat().st_size


def test_figures_are_those_of_the_model_in_one_piece(stores: Callable[[str], ModelStore]) -> None:
    model = stores("llama").open("int4")
    rows = read_rows(model.folder / ROWS_FILE)
    losses, same = [], []
    best = iter(rows.best)
    for ids in rows.passages:
        logits = Chain(model).run(ids, range(len(ids)))[:-1].astype(np.float64)
        peaks = logits.max(-1)
        likely = logits[np.arange(len(logits)), np.array(ids[1:])]
        losses += list(np.log(np.exp(logits - peaks[:, None]).sum(-1)) + peaks - likely)
        same += [int(row.argmax()) == next(best) for row in logits]
    found = measure_quality(subject_of(model), "fast", rows)
    assert found.rows == len(losses)
    assert found.argmax_agreement == np.mean(same)
    assert found.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)


def test_types_on_the_wire_are_judged_where_three_nodes_meet(stores: Callable[[str], ModelStore]) -> None:
    model = stores("llama").open("int4")
    passages = read_rows(model.folder / ROWS_FILE).passages[:2]
    cuts = even_cuts(model.manifest.num_units)
    assert cuts == (2, 4)
    made = predict(subject_of(model), "exact", passages, INT8, cuts)
    chain = [Chain(model, cuts, "exact", wire="int8").run(ids, range(len(ids)))[:-1].argmax(-1) for ids in passages]
    assert made["int8"].best.tolist() == np.concatenate(chain).tolist()
    assert made["fp32"].best.tolist() != made["int8"].best.tolist()
    at_the_head = predict(subject_of(model), "exact", passages, INT8, (model.manifest.num_units - 1,))
    assert not np.array_equal(at_the_head["int8"].losses, at_the_head["fp32"].losses)


def test_another_profile_has_figures_of_its_own_without_the_source(stores: Callable[[str], ModelStore]) -> None:
    store = stores("qwen2")
    exact = store.add(str(store.home.parent / "source"), precision="int4", profile="exact").name
    fast, found = store.quality("int4"), store.quality(exact)
    assert fast is not None
    assert found is not None
    assert (fast.profile, found.profile) == ("fast", "exact")
    assert found.model.perplexity != fast.model.perplexity
    assert found.model.source_perplexity == fast.model.source_perplexity
    assert (found.wire, found.source_bytes) == ("fp16", fast.source_bytes)
    store.rm(exact)


def test_passages_are_what_the_model_and_its_tokenizer_have_room_for(stores: Callable[[str], ModelStore]) -> None:
    tokenizer = stores("llama").open("int4").tokenizer()
    begins = [tokenizer.encode(text)[:16] for text in PASSAGES]
    assert [list(ids) for ids in encode_passages(tokenizer, 320, 16)] == begins
    assert all(max(ids) < 60 for ids in encode_passages(tokenizer, 60, 16))
    assert encode_passages(tokenizer, 1, 16) == ((0,) * 16,)


@pytest.mark.parametrize(
    ("agreement", "perplexity", "wire"),
    [(0.98, 20.2, "fp16"), (0.979, 20.0, "fp32"), (1.0, 20.21, "fp32"), (1.0, 10.0, "fp16")],
)
def test_fp16_travels_where_it_changes_little(agreement: float, perplexity: float, wire: str) -> None:
    wires = (WireQuality("fp16", agreement, perplexity), WireQuality("int8", 1.0, 20.0))
    assert QualityReport("fast", Quality(500, 0.9, 20.0, 15.0), 1, (2, 4), wires).wire == wire


def test_logits_that_are_no_numbers_cost_the_most() -> None:
    logits = np.array([[np.nan, 0, 0], [0, np.inf, 0], [-500, 0, 0], [5, 0, 0]], np.float32)
    made = quality.judge_rows(logits, [1, 0, 0, 0])
    assert made.losses[:3].tolist() == [LARGEST_LOSS] * 3
    assert made.losses[3] == pytest.approx(math.log(1 + 2 * math.exp(-5)))
