"""Archives of models: the same model elsewhere, without what converts; and no stranger's that doesn't add up."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tarfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from orchestrator import cli
from orchestrator.model.archive import index as index_module
from orchestrator.model.archive import unpack as unpack_module
from orchestrator.model.archive.export import without_places
from orchestrator.model.archive.index import BLOBS, INDEX_FILE, MODEL, Index
from orchestrator.model.archive.tar import END
from orchestrator.model.errors import (
    ArchiveExists,
    BlobCorrupt,
    BrokenModel,
    ModelExists,
    ModelFilesLost,
    NoRoom,
    NoSuchModel,
    UnsupportedModel,
)
from orchestrator.model.extras import MODULES
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from tests.support.archives import Members, a_blob, index_of, members, whole, with_json, with_member, write
from tests.support.repository import ROOT

GRAPH = f"{MODEL}decoder.onnx"
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.fixture(scope="module")
def archive(tiny_store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "tiny.tar"
    tiny_store.export("tiny", path)
    return path


@pytest.fixture(scope="module")
def content(archive: Path) -> Members:
    return members(archive)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty one."""
    return ModelStore(tmp_path / "elsewhere")


def left_behind(store: ModelStore) -> list[str]:
    """Files of a store that should have none."""
    return sorted(str(p.relative_to(store.home)) for p in store.home.rglob("*") if p.is_file() and p.name != "lock")


def test_a_model_is_the_same_elsewhere(archive: Path, tiny_model: Model, store: ModelStore, tmp_path: Path) -> None:
    steps = []
    added = store.add(str(archive), progress=lambda step, done, total: steps.append((step, done, total)))
    assert steps[-1][0] == "unpack"
    assert steps[-1][1] == steps[-1][2] > added.weight_bytes
    assert added == store.show("tiny")
    assert added == without_places(tiny_model.manifest).as_from_archive("tiny")
    assert store.active == "tiny"
    for blob in added.blobs:
        there = (tiny_model.blobs_folder / blob.sha256).read_bytes()
        assert (store.blobs_folder / blob.sha256).read_bytes() == there
    assert store.compared("tiny") is not None
    assert store.quality("tiny") is not None
    model = store.open()
    assert model.segment(1, 3, wire="fp16") == tiny_model.segment(1, 3, wire="fp16")
    assert model.tokenizer().encode("river") == tiny_model.tokenizer().encode("river")
    assert (Chain(model).run([5, 6, 7]) == Chain(tiny_model).run([5, 6, 7])).all()
    store.export("tiny", tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_any_tar_reads_an_archive_and_its_index_comes_first(archive: Path) -> None:
    with tarfile.open(archive) as file:
        infos = file.getmembers()
        index = json.loads(file.extractfile(infos[0]).read())  # type: ignore[union-attr]
    assert infos[0].name == INDEX_FILE
    assert [(m["name"], m["size_bytes"]) for m in index["members"]] == [(i.name, i.size) for i in infos[1:]]
    assert not any(i.name.startswith(f"{MODEL}segments") for i in infos), "these are made anew"


def test_what_converts_is_not_needed(archive: Path, tmp_path: Path) -> None:
    """In an interpreter in which importing any of it fails."""
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"
        "from pathlib import Path\n"
        "from orchestrator.model.segment_run import open_graph\n"
        "from orchestrator.model.store import ModelStore\n"
        "store = ModelStore(Path(sys.argv[2]))\n"
        "model = store.open(store.add(sys.argv[3]).name)\n"
        "spec = model.segment(0, 3)\n"
        "session = open_graph(model.blobs_folder / spec.graph.sha256, model.blobs_folder)\n"
        "print(*(i.name for i in session.get_inputs()))\n"
    )
    blocked = [name for name in MODULES["convert"] if name != "google.protobuf"]  # which onnx needs, too
    command = [sys.executable, "-c", script, " ".join(blocked), str(tmp_path / "home"), str(archive)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "input_ids" in done.stdout


def test_blobs_that_are_there_are_shared_and_mended(archive: Path, store: ModelStore) -> None:
    first = store.add(str(archive))
    whole_one, damaged = (store.blobs_folder / blob.sha256 for blob in first.blobs[:2])
    before = whole_one.stat()
    damaged.write_bytes(damaged.read_bytes()[::-1])
    second = store.add(str(archive), name="second")
    assert (second.name, second.blobs) == ("second", first.blobs)
    assert (whole_one.stat().st_ino, whole_one.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    store.check("second")
    store.rm("tiny")
    store.check("second")
    store.rm("second")
    assert left_behind(store) == []


def test_where_a_source_lies_stays_behind(tiny_model: Model) -> None:
    manifest = tiny_model.manifest
    assert without_places(manifest).source == Path(manifest.source).name != manifest.source
    hub = dataclasses.replace(manifest, source="owner/name", fingerprint="hub:owner/name@1")
    assert without_places(hub) == hub
    folder = dataclasses.replace(manifest, source="owner/name", fingerprint="sha256:1")
    assert without_places(folder).source == "name"


def test_a_stranger_s_model_is_never_taken_for_its_source(
    tiny_model: Model, archive: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adding the source later converts it, whatever an archive claims to be."""
    store.add(str(archive))

    def take_in(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr("orchestrator.model.store.take_in", take_in)
    with pytest.raises(NotImplementedError):
        store.add(tiny_model.manifest.source, "converted", precision="fp32", profile="exact")


def test_it_is_taken_as_it_is_or_not_at_all(archive: Path, store: ModelStore) -> None:
    for wanted, found in (({"precision": "int4"}, "fp32"), ({"profile": "steady"}, "exact")):
        with pytest.raises(UnsupportedModel, match=f"has a model in {found}"):
            store.add(str(archive), **wanted)
    store.add(str(archive), precision="fp32", profile="exact")
    with pytest.raises(ModelExists, match="is here already"):
        store.add(str(archive))


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_kept_unless_forced(tiny_store: ModelStore, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.tar"
    path.write_text("precious")
    with pytest.raises(ArchiveExists, match="--force"):
        tiny_store.export("tiny", path)
    assert path.read_text() == "precious"
    tiny_store.export("tiny", path, force=True)
    assert path.read_bytes() == archive.read_bytes()
    with pytest.raises(ArchiveExists, match="is a folder"):
        tiny_store.export("tiny", tmp_path, force=True)
    with pytest.raises(NoSuchModel, match="no folder"):
        tiny_store.export("tiny", tmp_path / "none" / "x.tar")
    with pytest.raises(NoSuchModel, match="see linguabus model list"):
        tiny_store.export("other", tmp_path / "x.tar")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.tar"]


def test_an_interrupted_export_leaves_nothing(tiny_store: ModelStore, tmp_path: Path) -> None:
    seen = []

    def interrupt(step: str, done: int, total: int) -> None:
        seen.append([p.name for p in tmp_path.iterdir()])
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_store.export("tiny", tmp_path / "x.tar", progress=interrupt)
    assert seen[-1], "it had begun"
    assert "x.tar" not in seen[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_model_is_not_exported(archive: Path, store: ModelStore, tmp_path: Path) -> None:
    victim = store.blobs_folder / store.add(str(archive)).blobs[0].sha256
    raw = victim.read_bytes()
    for damaged in (raw[::-1], raw[:-1], raw + b"x"):
        victim.write_bytes(damaged)
        with pytest.raises(BlobCorrupt, match="is damaged"):
            store.export("tiny", tmp_path / "x.tar")
    victim.unlink()
    with pytest.raises(ModelFilesLost):
        store.export("tiny", tmp_path / "x.tar")
    assert not list(tmp_path.glob("x.tar*"))


def test_a_full_disk_is_told_before(
    tiny_store: ModelStore, archive: Path, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10, 9, 1))
    with pytest.raises(NoRoom, match="make room"):
        tiny_store.export("tiny", tmp_path / "x.tar")
    with pytest.raises(NoRoom, match="make room"):
        store.add(str(archive))
    assert not (tmp_path / "x.tar").exists()
    assert left_behind(store) == []


# --- what strangers write -----------------------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])


def flipped(content: Members, name: str) -> Members:
    data = content[name]
    return {**content, name: bytes([data[0] ^ 1]) + data[1:]}


def with_graph(content: Members, change: Callable[[onnx.ModelProto], None]) -> Members:
    model = onnx.load_model_from_string(content[GRAPH])
    change(model)
    return {**content, GRAPH: model.SerializeToString()}


def first_external(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.external_data)


def place(key: str, value: str) -> Callable[[Members], Members]:
    def change(model: onnx.ModelProto) -> None:
        entry = next(e for e in first_external(model).external_data if e.key == key)
        entry.value = value

    return lambda content: with_graph(content, change)


def weight_in_a_node(model: onnx.ModelProto) -> None:
    node = model.graph.node.add(op_type="Constant", output=["stolen"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(first_external(model))


def described(name: str, **changes: object) -> Callable[[Members], Members]:
    return lambda content: with_json(content, name, lambda raw: raw.update(changes))


def another_name_for_a_blob(content: Members) -> Members:
    return {(f"{BLOBS}{'0' * 64}" if name == a_blob(content) else name): data for name, data in content.items()}


CONSISTENT: list[tuple[str, Callable[[Members], Members], str]] = [
    ("upwards", lambda c: {**c, "model/../../up": b"x"}, "which no model has"),
    ("absolute", lambda c: {"/etc/passwd": b"x", **c}, "which no model has"),
    ("another file", lambda c: {"model/run.py": b"x", **c}, "which no model has"),
    ("escapes", lambda c: {"model/\x1b[2J": b"x", **c}, "which no model has"),
    ("blob of another name", another_name_for_a_blob, "which no model has"),
    ("no tokenizer", lambda c: {n: d for n, d in c.items() if "tokenizer.json" not in n}, "lacks tokenizer/"),
    ("weights first", lambda c: dict(reversed(c.items())), "weights before"),
    ("one blob less", lambda c: {n: d for n, d in c.items() if n != a_blob(c)}, "lists other weights"),
    ("graph is none", lambda c: {**c, GRAPH: b"no graph"}, "ONNX"),
    ("graph without cache", lambda c: with_graph(c, lambda m: m.graph.output.pop()), "output"),
    ("graph with another layout", lambda c: with_graph(c, lambda m: m.graph.node.pop()), "computed by no node"),
    ("weights of others", place("location", "f" * 64), "own blobs"),
    ("weights outside", place("location", "../../secret"), "outside its folder"),
    ("weights behind the end", place("offset", str(1 << 40)), "own blobs"),
    ("weights before the beginning", place("offset", "-64"), "own blobs"),
    ("weights too short", place("length", "4"), "own blobs"),
    ("weights nowhere", place("offset", "x"), "lies nowhere"),
    ("weights in a node", lambda c: with_graph(c, weight_in_a_node), "where none belong"),
    ("manifest is none", lambda c: {**c, "model/manifest.json": b"[]"}, "expected an object"),
    ("manifest with more", described("manifest.json", extra=1), "unknown"),
    ("manifest that lies", described("manifest.json", max_context=7000), "its graph and tokenizer: max_context"),
    ("manifest with escapes", described("manifest.json", family="\x1b]0;x\x07"), "can't be printed"),
    ("manifest of no precision", described("manifest.json", precision="int3"), "precision"),
    ("manifest of no profile", described("manifest.json", profile="quick"), "profile"),
    ("figures that are none", described("check.json", logits_difference=float("nan")), "can't be printed"),
    ("figures of another", described("check.json", precision="int4"), "check.json is another"),
    ("no figure of fp16", described("quality.json", wires=[]), "quality.json is another"),
    ("rows of another", described("source-rows.json", best=[1]), "source-rows.json is another"),
    ("tokenizer is none", lambda c: {**c, "model/tokenizer/tokenizer.json": b"{}"}, "can't be|cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [c[1:] for c in CONSISTENT], ids=[c[0] for c in CONSISTENT])
def test_a_model_that_does_not_add_up_is_refused(
    content: Members, store: ModelStore, tmp_path: Path, change: Callable[[Members], Members], words: str
) -> None:
    path = write(tmp_path / "strange.tar", change(content))
    refused(store, path, words)


def refused(store: ModelStore, path: Path, words: str, kind: type[Exception] = BrokenModel) -> None:
    with pytest.raises(kind, match=words) as caught:
        store.add(str(path))
    said = str(caught.value)
    assert said.startswith(str(path))
    assert said.isprintable(), "one line, without control characters"
    assert any(advice in said for advice in ("copy it again, or make it anew", "upgrade", "export it again"))
    assert str(store.home) not in said
    assert left_behind(store) == []


def raw_index(index: Index, **changes: object) -> bytes:
    return json.dumps({**dataclasses.asdict(index), **changes}).encode()


def test_damage_is_found(archive: Path, content: Members, store: ModelStore, tmp_path: Path) -> None:
    path, right = tmp_path / "x.tar", index_of(content)
    for share in (0.001, 0.5, 0.99):
        shutil.copyfile(archive, path)
        cut(path, share)
        refused(store, path, "ends too early")
    for foreign in (b"", b"\x80PNG" * 1000):
        path.write_bytes(foreign)
        refused(store, path, "not an archive of a model")
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with tarfile.open(path, "w", format=form) as other:
            other.add(__file__, "file.py")
        refused(store, path, "not an archive of a model")
    for name in (a_blob(content), GRAPH):
        refused(store, write(path, flipped(content, name), right), "SHA-256 is another")
    refused(store, write(path, content, end=whole("more", b"") + END), "its index does not list")
    refused(store, write(path, content, end=END + bytes(1)), "goes on behind its end")
    moved = dict(content)
    moved[a_blob(content)] = moved.pop(a_blob(content))
    refused(store, write(path, moved, right), "not where its index says")
    refused(store, write(path, content, with_member(right, size_bytes=5)), "lists other weights")
    refused(store, write(path, content, with_member(right, size_bytes=1 << 50)), "are the most")
    refused(store, write(path, content, with_member(right, size_bytes=-1)), "are the most")
    refused(store, write(path, content, with_member(right, name="blobs/x")), "which no model has")
    twice = dataclasses.replace(right, members=(*right.members, right.members[-1]))
    refused(store, write(path, content, twice), "twice")
    refused(store, write(path, content, b"{"), "not JSON")
    refused(store, write(path, content, b"[]"), "no archive_format")
    refused(store, write(path, content, raw_index(right, members=3)), "expected a list")
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    for kind in (*kinds, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        other = tarfile.TarInfo(right.members[0].name)
        other.type, other.linkname = kind, "/etc/passwd"
        start = whole(INDEX_FILE, right.to_json().encode())
        path.write_bytes(start + other.tobuf(tarfile.GNU_FORMAT) + END)
        refused(store, path, "not a plain file")


def test_other_formats_are_told_from_damage(content: Members, store: ModelStore, tmp_path: Path) -> None:
    path, right = tmp_path / "x.tar", index_of(content)
    for key in ("archive_format", "manifest_format"):
        newer = raw_index(right, **{key: 99, "members": "in another form"})
        refused(store, write(path, content, newer), "a newer linguabus.*upgrade it here", UnsupportedModel)
        older = raw_index(right, **{key: 0})
        refused(store, write(path, content, older), "an older linguabus.*export it again", UnsupportedModel)


def test_there_are_limits(
    content: Members, archive: Path, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "MOST_MEMBERS", 3)
    refused(store, archive, "more than 3")
    monkeypatch.undo()
    monkeypatch.setitem(index_module.MODEL_FILES, "decoder.onnx", 10)
    refused(store, archive, "10 are the most")
    monkeypatch.setattr(unpack_module, "MOST_INDEX_BYTES", 10)
    refused(store, archive, "its index has")


def test_an_archive_is_known_by_what_it_begins_with(archive: Path, store: ModelStore, tmp_path: Path) -> None:
    other = tmp_path / "tiny.linguabus"
    shutil.copyfile(archive, other)
    assert store.add(str(other)).name == "tiny"
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UnsupportedModel, match="linguabus model export"):
        store.add(str(tmp_path / "notes.txt"))


def test_an_interrupted_add_leaves_nothing(archive: Path, store: ModelStore) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.add(str(archive), progress=interrupt)
    assert left_behind(store) == []


def test_what_trips_up_a_reader_is_told_in_a_line(
    content: Members, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("orchestrator.model.archive.examine.plan_split", trip)
    refused(store, write(tmp_path / "x.tar", content), "can't be understood .RecursionError: too deep")


def test_the_command_line(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(["--home", str(tmp_path / "home"), "model", *arguments])
        return code, *capsys.readouterr()

    code, out, err = run("add", str(archive), "--name", "mine")
    assert code == 0, err
    assert out.startswith("mine: llama, 4 blocks, fp32 exact, ")
    assert "as it was measured where it was converted" in out
    assert "reading the archive ..." in err
    code, out, err = run("verify")
    assert code == 0, err
    assert "NOT compared with its source: checkpoint did not come with the archive" in err
    assert "compared with what its source made of a text when it was converted:\nquality over " in out
    target = tmp_path / "mine.tar"
    code, out, err = run("export", "mine", str(target))
    assert (code, "writing the archive ..." in err) == (0, True)
    assert out.startswith(f"mine is in {target}, ")
    assert "left out" not in out, "there was nothing to leave out any more"
    assert run("export", "mine", str(target))[0] == 2
    assert run("export", "mine", str(target), "--force")[0] == 0
