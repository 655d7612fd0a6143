"""Every supported family, as a tiny random model: converted like transformers computes it, and cut without a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from edge_node.runtime.segment import Segment
from orchestrator.model.archive.examine import examine
from orchestrator.model.graph import read_model
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain, compare_runs, verify
from tests.support.equal_runs import differing_logits
from tests.support.in_process import converting_here
from tests.support.known_answers import check
from tests.support.segments import open_segment, segment_spec
from tests.support.tiny_models import FAMILIES, VOCABULARY, make_checkpoint

PROMPT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(24)]
QUANTISED = [
    ("llama", "int4"),
    ("llama", "int8"),
    ("llama", "fp16"),
    ("gemma3", "int4"),
    ("phi3", "int8"),
    ("lfm2", "int4"),
    ("qwen3_5", "int4"),
    ("qwen3_5", "int8"),
]
MADE = [*((family, "fp32") for family in FAMILIES), *QUANTISED]
FOLDED = "qwen3_5"
"""Its blocks keep a state, which rules the profile steady out."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """All families in fp32, some in other precisions; converted in this process, to load torch once only."""
    folder = tmp_path_factory.mktemp("families")
    store = ModelStore(folder / "home")

    with converting_here():
        for family in FAMILIES:
            make_checkpoint(family, folder / family)
        for family, precision in MADE:
            store.add(str(folder / family), precision=precision)
    return store


@pytest.fixture(scope="module")
def reference(store: ModelStore) -> Callable[[str], Any]:
    """The transformers model that a family was converted from."""
    import torch
    import transformers

    def load(family: str) -> Any:
        folder = store.home.parent / family
        return transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()

    return load


def opened(store: ModelStore, family: str, precision: str = "fp32") -> Model:
    return store.open(f"{family}-{precision}")


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_computes_what_transformers_computes(
    store: ModelStore, reference: Callable[[str], Any], family: str
) -> None:
    import torch

    original = reference(family)
    with torch.no_grad():
        expected = original(torch.tensor([PROMPT])).logits[0].numpy()
        answer = original.generate(torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False, eos_token_id=None)
    model = opened(store, family)
    assert np.abs(Chain(model).run(PROMPT, range(len(PROMPT))) - expected).max() < 1e-3
    assert Chain(model, [2, 4]).greedy(PROMPT, 16) == answer[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize(("family", "precision"), MADE)
def test_its_files_alone_tell_what_its_manifest_says(store: ModelStore, family: str, precision: str) -> None:
    """So that it passes where it comes in an archive."""
    model = opened(store, family, precision)
    sizes = {blob.sha256: blob.size_bytes for blob in model.manifest.blobs}
    assert examine(model.folder, sizes) == model.manifest


@pytest.mark.parametrize(("family", "precision"), [made for made in MADE if made[0] != FOLDED])
def test_steady_gives_the_same_bits_in_any_runs(store: ModelStore, family: str, precision: str) -> None:
    """Here and on nodes, past the window of attention too, where the text is longer than that."""
    model = opened(store, family, precision)
    assert compare_runs(model, PROMPT, profile="steady").bitwise_equal
    spec = segment_spec(model, 0, model.manifest.num_units, profile="steady", chunk_tokens=32)
    segment = Segment(spec, model.blobs_folder / spec.graph.sha256, threads=1)
    segment.warm_up()
    assert set(differing_logits(segment).values()) == {0}


@pytest.mark.parametrize(("family", "precision"), MADE)
def test_segments_give_their_known_answers(store: ModelStore, family: str, precision: str) -> None:
    model = opened(store, family, precision)
    units = model.manifest.num_units
    for start, stop in ((0, units), (0, 1), (1, 2), (2, units - 1), (units - 1, units)):
        for wire in ("fp32", "fp16"):
            made = check(model, open_segment(model, start, stop, wire=wire), start, stop)  # type: ignore[arg-type]
            made.repeat()
            assert made.gives_the_same_bits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_do_not_depend_on_where_it_is_cut(store: ModelStore, family: str) -> None:
    model = opened(store, family)
    for cuts in (None, [1], [2, 4], [model.manifest.num_units - 1]):
        assert verify(model, cuts, PROMPT).bitwise_equal, cuts


@pytest.mark.parametrize("profile", ["fast", "exact"])
@pytest.mark.parametrize(("family", "precision"), QUANTISED)
def test_other_precisions_are_cut_without_a_trace_too(
    store: ModelStore, family: str, precision: str, profile: str
) -> None:
    model = opened(store, family, precision)
    for cuts in (None, [3]):
        result = verify(model, cuts, PROMPT, profile=profile)
        assert result.bitwise_equal, cuts


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("int8", 0.5)])
def test_smaller_weights_stay_near_the_original(store: ModelStore, precision: str, tolerance: float) -> None:
    rows = range(len(PROMPT))
    whole = Chain(opened(store, "llama"), profile="exact").run(PROMPT, rows)
    small = Chain(opened(store, "llama", precision), profile="exact").run(PROMPT, rows)
    assert 0 < np.abs(whole - small).max() < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_the_manifest_says_what_the_family_is(store: ModelStore, family: str) -> None:
    manifest = opened(store, family).manifest
    window = 8 if family in ("mistral", "phi3") or family.startswith("gemma3") else None
    full = {2, 5} if family == "gemma3" else {1, 3} if family == "gemma3-linear" else set()
    assert [c.window for c in manifest.layers] == [None if c.layer in full else window for c in manifest.layers]
    assert {b.width for b in manifest.boundaries} == {64}
    assert {b.tensors for b in manifest.boundaries} == {1}
    convolutions = {0, 2} if family == "lfm2" else set()
    rules = {0, 2, 3} if family == FOLDED else set()
    for cache, unit in zip(manifest.layers, manifest.units[1:-1], strict=True):
        if cache.layer in rules:
            assert [state.shape for state in cache.states] == [(2 * 2 * 16 + 4 * 16, 3), (4, 16, 16)]
            assert (unit.kv_bytes_per_token, unit.state_bytes) == (0, 4 * (128 * 3 + 4 * 16 * 16))
            continue
        is_convolution = cache.layer in convolutions
        assert (cache.kv_heads, cache.conv_dim) == ((0, 64) if is_convolution else (2, 0))
        assert unit.kv_bytes_per_token == 4 * (64 if is_convolution else 2 * (cache.key_dim + cache.value_dim))
    assert {c.dtype for c in manifest.layers} == {"float32"}
    assert (manifest.vocab_size, manifest.bos_id, manifest.eos_ids) == (VOCABULARY, 1, (2,))
    assert manifest.max_context == (64 if family == "phi3-long" else 256)
    assert manifest.family == {"gemma3": "gemma3_text", FOLDED: "qwen3_5_text"}.get(
        family.split("-")[0], family.split("-")[0]
    )
    assert manifest.has_chat_template


def test_tied_embeddings_are_stored_once(store: ModelStore) -> None:
    for family, precision in (("llama", "fp32"), ("llama", "fp16"), ("llama", "int4"), ("gemma3", "fp32")):
        manifest = opened(store, family, precision).manifest
        last = manifest.num_units - 1
        assert [b.units for b in manifest.blobs if {0, last} <= set(b.units)] == [(0, last)]
    untied = opened(store, "llama-untied").manifest
    assert not [b for b in untied.blobs if {0, 5} <= set(b.units)]


def test_tables_of_two_kinds_of_attention_go_where_they_are_used(store: ModelStore) -> None:
    model = opened(store, "gemma3")
    head_dim = model.manifest.layers[0].key_dim
    assert model.manifest.position_bytes == 2 * 2 * 4 * head_dim // 2
    for start, stop, tables in ((2, 3, 1), (3, 4, 1), (2, 4, 2), (0, 1, 0)):
        graph = read_model(model.blobs_folder / model.segment(start, stop, positions=24).graph.sha256).graph
        limits = [t for t in graph.initializer if t.name.endswith("/positions")]
        assert [float(numpy_helper.to_array(t)) for t in limits] == [24] * tables


def test_int4_is_smaller_than_fp32(store: ModelStore) -> None:
    assert opened(store, "llama", "int4").manifest.weight_bytes * 3 < opened(store, "llama").manifest.weight_bytes


def test_flops_count_every_matrix_of_a_block(store: ModelStore) -> None:
    for precision in ("fp32", "fp16", "int4"):
        # Behind the inputs there are the means of their blocks of 32, twice, the first time filled up to a block.
        width, inner = (64 + 32 + 64 // 32, 96 + 32 + 96 // 32) if precision == "int4" else (64, 96)
        attention = width * 64 * 2 + 2 * width * 32  # query and output, key and value
        expected = 2 * (attention + 2 * width * 96 + 64 * inner)
        manifest = opened(store, "llama", precision).manifest
        assert [u.flops_per_token for u in manifest.units] == [0, *[expected] * 4, 2 * 64 * VOCABULARY]
