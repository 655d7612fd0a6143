"""The store: added once and whole, shared weights kept once, removed without a trace, damage found."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from orchestrator.model import attention, parity, weights
from orchestrator.model import store as store_module
from orchestrator.model.errors import (
    BlobCorrupt,
    ConversionFailed,
    ManifestError,
    ModelExists,
    ModelFilesLost,
    ModelInUse,
    NoSuchModel,
    UnsupportedModel,
)
from orchestrator.model.lock import exclusive
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import verify
from tests.support.in_process import run_here
from tests.support.onnx_graphs import DecoderMaker, save


def source(folder: Path, seed: int = 0) -> str:
    """An ONNX decoder folder with three blocks: quick to add."""
    maker = DecoderMaker(seed)
    hidden = "embedded"
    for _ in range(3):
        hidden = maker.block(hidden)
    maker.weight("head_bias", 1, 1, 600)  # large enough for a blob of its own
    return str(save(maker.head(hidden), folder))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """An empty one; what is added is compared with its source in this process."""
    monkeypatch.setattr(parity, "run_module", run_here)
    return ModelStore(tmp_path / "home")


def test_the_first_model_becomes_active_and_use_changes_it(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(NoSuchModel, match="model add SOURCE"):
        store.open()
    one = store.add(source(tmp_path / "one"))
    two = store.add(source(tmp_path / "two", 1), name="second")
    assert (one.name, two.name, store.active) == ("one-fp32", "second", "one-fp32")
    assert [m.name for m in store.list()] == ["one-fp32", "second"]
    store.use("second")
    assert store.open().manifest == store.show("second") == two
    with pytest.raises(NoSuchModel, match="no model 'third': see linguabus model list"):
        store.use("third")


def test_a_model_that_is_here_is_not_converted_only_to_be_refused(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "INLINE_BYTES", 16)  # as below
    (blob, *_) = store.add(source(tmp_path / "one")).blobs
    damaged = store.blobs_folder / blob.sha256
    damaged.write_bytes(damaged.read_bytes()[::-1])

    def progress(step: str, done: int, total: int) -> None:
        pytest.fail(f"it begins with {step!r}")

    with pytest.raises(ModelExists, match="linguabus model rm one-fp32"):
        store.add(source(tmp_path / "one"), progress=progress)


def test_a_model_of_another_version_does_not_keep_others_from_being_added(store: ModelStore, tmp_path: Path) -> None:
    store.add(source(tmp_path / "one"))
    (store.home / "models" / "one-fp32" / "manifest.json").write_text("{}", "utf-8")
    assert store.add(source(tmp_path / "two", seed=1)).name == "two-fp32"


def test_a_name_is_given_once(store: ModelStore, tmp_path: Path) -> None:
    store.add(source(tmp_path / "one"), name="mine")
    with pytest.raises(ModelExists, match="--name"):
        store.add(source(tmp_path / "one"), name="mine")
    for bad in ("../up", "", "a/b", ".hidden"):
        with pytest.raises(UnsupportedModel):
            store.add(source(tmp_path / "one"), name=bad)


def test_unknown_precisions_and_profiles_are_refused(store: ModelStore) -> None:
    with pytest.raises(UnsupportedModel, match="auto, int4, mixed, int8, fp16, fp32"):
        store.add("anything", precision="int3")
    with pytest.raises(UnsupportedModel, match="fast, steady, exact"):
        store.add("anything", profile="quick")


def test_the_same_source_in_another_profile_is_not_converted_again(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path / "one")
    fast = store.add(path)

    def take_in(*_: object) -> Manifest:
        raise AssertionError("converted again")

    monkeypatch.setattr(store_module, "take_in", take_in)
    for profile in ("exact", "steady"):
        other = store.add(path, profile=profile)
        assert (other.name, other.profile, other.blobs) == (f"one-fp32-{profile}", profile, fast.blobs)
        assert store.open(other.name).segment(0, 2).profile == profile


def test_a_model_with_a_damaged_blob_is_mended_by_adding_it_again(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "INLINE_BYTES", 16)  # this small model's weights would be inside its graph
    path = source(tmp_path / "one")
    first = store.add(path, name="first")
    victim = store.blobs_folder / first.blobs[0].sha256
    victim.write_bytes(victim.read_bytes()[::-1])
    with pytest.raises(BlobCorrupt):
        store.check("first")
    assert store.add(path, name="second").blobs == first.blobs
    for name in ("first", "second"):
        store.check(name)


def test_a_model_that_a_profile_does_not_suit_is_refused(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is converted or here already: as if its attention took what dummies have not."""
    monkeypatch.setattr(attention, "_PER_POSITION", (0,))
    with pytest.raises(UnsupportedModel, match="take --profile exact"):
        store.add(source(tmp_path / "one"), profile="steady")
    assert store.names() == ()
    store.add(source(tmp_path / "one"))
    with pytest.raises(UnsupportedModel, match="take --profile exact"):
        store.add(source(tmp_path / "one"), profile="steady")


def test_a_profile_that_nobody_knows_is_a_damaged_manifest(store: ModelStore, tmp_path: Path) -> None:
    name = store.add(source(tmp_path / "one")).name
    path = store.home / "models" / name / "manifest.json"
    path.write_text(path.read_text().replace('"profile": "fast"', '"profile": "quick"'))
    with pytest.raises(ManifestError, match="no numeric profile 'quick'; run: linguabus model rm"):
        store.open(name)


def test_a_source_that_was_named_from_one_folder_is_found_from_another(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = source(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert store.add("one").source == path
    monkeypatch.chdir("/")
    assert store.compare() is not None


def test_removing_frees_what_no_other_model_needs(store: ModelStore, tmp_path: Path) -> None:
    path = source(tmp_path / "one")
    store.add(path, name="a")
    store.add(path, name="b")
    store.open("a").segment(0, 3)
    store.open("b").segment(1, 4)
    before = {p.name for p in store.blobs_folder.iterdir()}
    assert store.rm("a") > 0  # the graph of its segment
    kept = {p.name for p in store.blobs_folder.iterdir()}
    assert kept < before
    store.check("b")
    assert store.active == "b"
    store.rm("b")
    assert list(store.blobs_folder.iterdir()) == []
    assert (store.active, store.names()) == (None, ())


def test_a_model_in_use_is_kept_unless_forced(store: ModelStore, tmp_path: Path) -> None:
    store.add(source(tmp_path / "one"), name="a")
    store.add(source(tmp_path / "two", 1), name="b")
    with store.in_use("a"), ModelStore(store.home).in_use("a"):
        with pytest.raises(ModelInUse, match=r"a is being served: .*--force"):
            store.rm("a")
        store.rm("b")
    with store.in_use("a"):
        store.rm("a", force=True)
        with pytest.raises(NoSuchModel), store.in_use("a"):
            pass
    store.add(source(tmp_path / "one"), name="a")
    dead = store.home / "in-use" / "a" / "left by one that died"
    dead.mkdir(parents=True)
    store.rm("a")
    assert not dead.exists()


def test_files_that_an_open_model_has_lost_are_named(tiny_store: ModelStore, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "copy")
    shutil.copytree(tiny_store.home, store.home)
    model = store.open("tiny")
    before = model.segment(0, 3)
    weights = store.blobs_folder / model.manifest.units[1].blobs[-1]
    content = weights.read_bytes()
    weights.unlink()
    for start, stop in ((0, 3), (1, 2)):  # assembled before, and not
        with pytest.raises(ModelFilesLost, match=f"model tiny has lost its file {weights.name}"):
            model.segment(start, stop)
    weights.write_bytes(content)
    assert model.segment(0, 3) == before
    store.rm("tiny")
    with pytest.raises(ModelFilesLost, match=r"manifest\.json"):
        model.segment(0, 3)


def test_a_failed_or_interrupted_add_leaves_nothing(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if step == "split":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add(source(tmp_path / "one"), progress=interrupt)
    assert store.names() == ()
    assert not store.home.exists()


def test_what_a_killed_add_left_is_cleared_away_but_not_one_at_work(store: ModelStore, tmp_path: Path) -> None:
    dead, alive = store.home / "partial" / "add-dead", store.home / "partial" / "add-alive"
    dead.mkdir(parents=True)
    (dead / "half.data").write_bytes(b"x")
    alive.mkdir()
    with exclusive(alive / "lock"):
        store.add(source(tmp_path / "one"))
        assert [p.name for p in (store.home / "partial").iterdir()] == ["add-alive"]


def test_two_adds_at_once(store: ModelStore, tmp_path: Path) -> None:
    one, two = source(tmp_path / "one"), source(tmp_path / "two", 1)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(store.add, one, "a"), pool.submit(store.add, two, "b"), pool.submit(store.add, one, "c")]
        assert sorted(j.result().name for j in jobs) == ["a", "b", "c"]
    for name in store.names():
        store.check(name)


def test_of_two_adds_of_one_name_one_wins(store: ModelStore, tmp_path: Path) -> None:
    path = source(tmp_path / "one")
    with ThreadPoolExecutor(2) as pool:
        errors = [pool.submit(store.add, path, "a").exception() for _ in range(2)]
    assert [type(e) for e in errors if e] == [ModelExists]
    store.check("a")


def test_damaged_and_missing_blobs_are_found(tiny_store: ModelStore, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "copy")
    shutil.copytree(tiny_store.home, store.home)
    victim = store.blobs_folder / store.show("tiny").blobs[1].sha256
    content = bytearray(victim.read_bytes())
    content[100] ^= 1
    victim.write_bytes(content)
    with pytest.raises(BlobCorrupt, match=f"{victim.name[:12]} of tiny is damaged"):
        store.check("tiny")
    victim.unlink()
    with pytest.raises(BlobCorrupt, match="cannot be read"):
        store.check("tiny")


def test_verify_compares_split_with_unsplit(tiny_store: ModelStore) -> None:
    steps: set[str] = set()

    def show(step: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        steps.add(step)

    tiny_store.check("tiny", show)
    result = verify(tiny_store.open("tiny"), progress=show)
    assert result.bitwise_equal
    assert result.same_tokens
    assert result.max_abs_difference == 0
    assert result.cuts == (1, 2, 3, 4, 5)
    assert result.compared == 16
    assert steps == {"check", "verify"}


def test_a_manifest_survives_json(tiny_model: Model) -> None:
    text = tiny_model.manifest.to_json()
    assert type(tiny_model.manifest).from_json(text, "here") == tiny_model.manifest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "format 99"),
        ({"units": []}, "do not fit together"),
        ({"vocab_size": "many"}, "vocab_size: expected int, found str"),
        ({"kv_dtype": "int3"}, "unknown dtype"),
        ({"surprise": 1}, "unknown ['surprise']"),
        ({"blobs": []}, "that is not listed"),
    ],
)
def test_a_damaged_manifest_is_named(tiny_model: Model, change: dict[str, object], words: str) -> None:
    raw = json.loads(tiny_model.manifest.to_json()) | change
    with pytest.raises(ManifestError) as caught:
        type(tiny_model.manifest).from_json(json.dumps(raw), "models/tiny/manifest.json")
    assert words in str(caught.value)
    assert "models/tiny/manifest.json" in str(caught.value)


def test_a_segment_needs_nothing_but_its_files(tiny_model: Model, tmp_path: Path) -> None:
    """What a node does: copy the files into one folder and open the graph with nothing but onnxruntime and numpy."""
    spec = tiny_model.segment(1, 3)
    assert spec.width_in == spec.width_out == 64
    assert spec.layers == (0, 1)
    for file in spec.files:
        shutil.copyfile(tiny_model.blobs_folder / file.sha256, tmp_path / file.sha256)
        assert (tmp_path / file.sha256).stat().st_size == file.size_bytes
    program = (
        "import sys, onnxruntime as ort; s = ort.InferenceSession(sys.argv[1]); "
        "print(*(i.name for i in s.get_inputs())); print(*(o.name for o in s.get_outputs())); "
        "assert 'onnx' not in sys.modules"
    )
    command = [sys.executable, "-c", program, str(tmp_path / spec.graph.sha256)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[0].split() == [t.name for t in spec.inputs]
    assert printed[1].split() == [t.name for t in spec.outputs]


def test_lengths_are_inputs_and_the_mask_is_gone(tiny_model: Model) -> None:
    for start, stop in [(0, 3), (1, 2), (3, tiny_model.manifest.num_units)]:
        names = {tensor.name for tensor in tiny_model.segment(start, stop).inputs}
        assert names >= {"seqlens_k", "total_sequence_length"}
        assert "attention_mask" not in names
    alone = {tensor.name for tensor in tiny_model.segment(0, 1).inputs}
    assert alone == {"input_ids"}


def test_a_segment_is_made_for_the_wire(tiny_model: Model) -> None:
    """Halves are converted in the graph; the other element types, and the whole model, know nothing of it."""
    usual, halves = tiny_model.segment(1, 3), tiny_model.segment(1, 3, wire="fp16")
    assert tiny_model.segment(1, 3, wire="int8") == usual == tiny_model.segment(1, 3)
    assert usual.graph != halves.graph
    assert (usual.blobs, usual.layers, usual.width_in) == (halves.blobs, halves.layers, halves.width_in)
    whole = (0, tiny_model.manifest.num_units)
    assert tiny_model.segment(*whole, wire="fp16") == tiny_model.segment(*whole)
    for spec in (usual, halves, tiny_model.segment(0, 2, wire="fp16"), tiny_model.segment(3, whole[1], wire="fp16")):
        graph = onnx.load(str(tiny_model.blobs_folder / spec.graph.sha256), load_external_data=False).graph
        for tensors, infos in ((spec.inputs, graph.input), (spec.outputs, graph.output)):
            assert {t.name: t.dtype for t in tensors} == {
                i.name: onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type).name for i in infos
            }
            assert len(tensors) == len(infos)


def test_a_segment_that_another_version_assembled_is_made_again(tiny_model: Model) -> None:
    spec = tiny_model.segment(0, 2)
    kept = tiny_model.folder / "segments" / f"0-2-{spec.profile}.json"
    known = json.loads(kept.read_text("utf-8"))
    for change in ({"assembly": known["assembly"] - 1}, {}):
        old = {name: value for name, value in known.items() if name != "assembly"}
        kept.write_text(json.dumps(old | change), "utf-8")
        assert tiny_model.segment(0, 2) == spec
        assert json.loads(kept.read_text("utf-8")) == known


def test_a_batch_of_two_gives_each_its_own_result(tiny_model: Model) -> None:
    import onnxruntime

    spec = tiny_model.segment(0, 3)
    session = onnxruntime.InferenceSession(str(tiny_model.blobs_folder / spec.graph.sha256))
    empty = np.zeros((2, 2, 0, 16), np.float32)
    cache = {t.name: empty for t in spec.inputs if t.name.startswith("past_")}
    ids = np.array([[5, 6, 7], [8, 9, 10]])

    def run(rows: slice) -> np.ndarray:
        few = {name: value[rows] for name, value in cache.items()}
        lengths = {"seqlens_k": np.full(len(ids[rows]), 2, np.int32), "total_sequence_length": np.array(3, np.int32)}
        return session.run(["hidden_out"], {"input_ids": ids[rows]} | lengths | few)[0]

    both = run(slice(0, 2))
    assert np.allclose(both[0], run(slice(0, 1))[0], atol=1e-5)
    assert np.allclose(both[1], run(slice(1, 2))[0], atol=1e-5)


def test_a_conversion_that_fails_gives_one_line(store: ModelStore, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_attention_heads": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"any": np.zeros(2, np.float32)}, folder / "model.safetensors")
    with pytest.raises(ConversionFailed) as caught:
        store.add(str(folder))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"converting {folder} failed: ")
    assert store.names() == ()
