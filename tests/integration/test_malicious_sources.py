"""Models that somebody made to harm: refused in one line, with nothing run, read elsewhere or left behind."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from orchestrator import cli
from orchestrator.model.convert import OPTIONS
from tests.support.in_process import converting_here
from tests.support.onnx_graphs import DecoderMaker, save
from tests.support.tiny_models import make_checkpoint

ROOM_BYTES = 3 << 30
"""Address space beyond what this process has already; much of it is what ONNX Runtime reserves and does not use."""


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with converting_here():
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama", tmp_path_factory.mktemp("checkpoints") / "llama")


@contextmanager
def little_memory() -> Iterator[None]:
    """In the block this process gets no more than ``ROOM_BYTES`` more."""
    has_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has_bytes + ROOM_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def add(source: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of ``model add`` and what it says at the end."""
    capsys.readouterr()
    with little_memory():
        code = cli.run(["--home", str(home), "model", "add", str(source), "--precision", "fp32"])
    said = capsys.readouterr().err
    return code, next((line for line in said.splitlines() if line.startswith("Error: ")), said)


def refused(source: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which a source was refused."""
    code, said = add(source, home, capsys)
    assert code in (1, 2), said
    assert said.startswith("Error: ")
    assert said.isprintable()
    assert len(said) < 1500
    assert "a bug" not in said
    kept = [path for path in (home / "models").rglob("*") if path.is_file() and path.name != "lock"]
    assert kept == [], "something was left behind"
    return said


def copied(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    return folder


def with_config(folder: Path, **entries: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# --- programs inside models ---------------------------------------------------------------------------------------


class Payload:
    """A pickle of it runs a program when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def as_pickle(payload: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload))


def as_torch_file(payload: object, path: Path) -> None:
    import torch

    torch.save({"model.norm.weight": payload}, path)


@pytest.mark.parametrize("write", [as_pickle, as_torch_file])
def test_a_pickle_runs_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[object, Path], None]
) -> None:
    folder, mark = copied(checkpoint, tmp_path / "pickle"), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    write(Payload(mark), folder / "pytorch_model.bin")
    with (folder / "pytorch_model.bin").open("rb") as file:
        if write is as_pickle:
            pickle.load(file)
            assert mark.exists(), "the payload would have run"
            mark.unlink()
    assert ".bin files with more in them than weights" in refused(folder, tmp_path / "home", capsys)
    assert not mark.exists()


def test_code_beside_a_model_is_never_run(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, mark = copied(checkpoint, tmp_path / "code"), tmp_path / "ran"
    places = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokens", None]}
    (folder / "own.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass Tokens: pass"
    )
    with_config(folder, auto_map=places, trust_remote_code=True)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"auto_map": places}))
    # It is a Llama, for which there is code here.
    code, said = add(folder, tmp_path / "home", capsys)
    assert (code, mark.exists()) == (0, False), said
    with_config(folder, model_type="own-type")
    refused(folder, tmp_path / "home2", capsys)
    assert not mark.exists()
    assert OPTIONS["hf_remote"] == "false", "the builder of some versions would run it"


# --- safetensors --------------------------------------------------------------------------------------------------


def safetensors(path: Path, header: object, length: int | None = None, data: bytes = b"") -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, tuple[object, int | None, bytes]] = {
    "length 2^63": ({}, 1 << 63, b""),
    "longer than the file": ({}, 5000, b""),
    "none": (b"", 0, b""),
    "no object": ([], None, b""),
    "deep": (b'{"a":' * 200_000, None, b""),
    "overlapping": ({"a": tensor(0, 16, [4]), "b": tensor(8, 24, [4])}, None, bytes(24)),
    "beyond the end": ({"a": tensor(0, 1 << 60, [1 << 58])}, None, bytes(24)),
    "negative": ({"a": tensor(-16, 0, [4])}, None, bytes(24)),
    "backwards": ({"a": tensor(16, 0, [4])}, None, bytes(24)),
    "a hole": ({"a": tensor(0, 4, [1]), "b": tensor(8, 12, [1])}, None, bytes(12)),
    "more than its shape": ({"a": tensor(0, 24, [4])}, None, bytes(24)),
    "a huge shape": ({"a": tensor(0, 24, [1 << 62, 1 << 62, 0])}, None, bytes(24)),
    "an endless shape": ({"a": tensor(0, 4, [1 << 62] * 100_000)}, None, bytes(4)),
    "a negative shape": ({"a": tensor(0, 4, [-1, -1])}, None, bytes(4)),
    "no numbers": ({"a": tensor(0, 4, ["1"])}, None, bytes(4)),  # type: ignore[list-item]
    "no type": ({"a": tensor(0, 4, [1], "X")}, None, bytes(4)),
    "more behind": ({"a": tensor(0, 4, [1])}, None, bytes(400)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_safetensors_that_lie(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    header, length, data = HEADERS[name]
    safetensors(folder / "model.safetensors", header, length, data)
    assert "model.safetensors" in refused(folder, tmp_path / "home", capsys)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "../../etc/passwd", "a\nb.safetensors", "."])
def test_an_index_names_files_of_its_folder_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    shutil.copyfile(folder / "model.safetensors", tmp_path / "secret.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refused(folder, tmp_path / "home", capsys)


def test_a_torch_file_that_grows_when_it_is_read(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(checkpoint, tmp_path / "bomb")
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr("archive/data/0", bytes(64 << 20))
    assert "pytorch_model.bin" in refused(folder, tmp_path / "home", capsys)


# --- other files of a checkpoint ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"null", b""])
def test_json_that_is_deep_or_none(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    (folder / name).write_bytes(content)
    if content == b"null" and name in ("tokenizer_config.json", "generation_config.json"):
        return  # as if it were not there
    assert name in refused(folder, tmp_path / "home", capsys)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_files_that_are_much_too_large(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    with (folder / name).open("ab") as file:
        file.truncate(8 << 30)  # takes no room on disk
    said = refused(folder, tmp_path / "home", capsys)
    assert name in said
    assert "MB" in said


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"]
)
def test_links_out_of_the_folder_are_not_followed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder, secret = copied(checkpoint, tmp_path / "model"), tmp_path / "secret"
    secret.write_text("the secret of somebody")
    if (folder / name).exists():
        shutil.copyfile(folder / name, secret)
        (folder / name).unlink()
    (folder / name).symlink_to(secret)
    said = refused(folder, tmp_path / "home", capsys)
    assert name in said
    assert "link" in said


def test_the_links_of_a_cache_and_within_a_folder_are_followed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs = tmp_path / "models--owner--name" / "blobs"
    folder = copied(checkpoint, tmp_path / "models--owner--name" / "snapshots" / "abc")
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    code, said = add(folder, tmp_path / "home", capsys)
    assert code == 0, said


def test_a_template_that_multiplies_costs_its_model_nothing_else(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(checkpoint, tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ 'x' * 99999999999 }}")
    code, said = add(folder, tmp_path / "home", capsys)
    assert code == 0
    assert "template" in said, "it is told"


# --- GGUF ---------------------------------------------------------------------------------------------------------


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def gguf(
    entries: list[bytes] | None = None, tensors: list[bytes] | None = None, counts: tuple[int, int] | None = None
) -> bytes:
    entries = [entry(b"general.architecture", 8, text(b"llama")), *(entries or [])]
    tensors = [tensor_info()] if tensors is None else tensors
    head = struct.pack("<IQQ", 3, *(counts or (len(tensors), len(entries))))
    return b"GGUF" + head + b"".join(entries) + b"".join(tensors) + bytes(4096)


def tensor_info(
    shape: tuple[int, ...] = (4, 4), kind: int = 0, offset: int = 0, dimensions: int | None = None
) -> bytes:
    head = text(b"token_embd.weight") + struct.pack("<I", len(shape) if dimensions is None else dimensions)
    return head + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", kind, offset)


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


GGUF: dict[str, bytes] = {
    "tensors without end": gguf(counts=((1 << 64) - 1, 1)),
    "entries without end": gguf(counts=(1, (1 << 64) - 1)),
    "many tensors": gguf(counts=(1 << 24, 1)),
    "a long key": gguf([text(b"", 1 << 63)]),
    "a long text": gguf([entry(b"a", 8, text(b"", 1 << 62))]),
    "a long array": gguf([entry(b"a", 9, array(4, 1 << 62))]),
    "an array beyond the end": gguf([entry(b"a", 9, array(4, 1 << 24))]),
    "many texts": gguf([entry(b"a", 9, array(8, 1 << 24))]),
    "deep arrays": gguf([entry(b"a", 9, array(9, 1) * 100_000)]),
    "wide and deep arrays": gguf([entry(b"a", 9, array(9, 1 << 24) * 500)]),
    "an unknown type": gguf([entry(b"a", 99, b"")]),
    "an endless shape": gguf(tensors=[tensor_info(((1 << 63) + 1,) * 200_000)]),
    "more dimensions than there are": gguf(tensors=[tensor_info(dimensions=1 << 31)]),
    "a huge shape": gguf(tensors=[tensor_info((1 << 63, 1 << 63, 1 << 63, 1 << 63))]),
    "a far offset": gguf(tensors=[tensor_info(offset=(1 << 64) - 32)]),
    "an unknown tensor": gguf(tensors=[tensor_info(kind=1000)]),
    "no alignment": gguf([entry(b"general.alignment", 4, struct.pack("<I", 0))]),
    "an endless alignment": gguf([entry(b"general.alignment", 6, struct.pack("<f", float("inf")))]),
    "a text as alignment": gguf([entry(b"general.alignment", 8, text(b"x"))]),
    "a text as count": gguf([entry(b"split.count", 8, text(b"x"))]),
    "an endless count": gguf([entry(b"split.count", 6, struct.pack("<f", float("inf")))]),
    "overlapping tensors": gguf(tensors=[tensor_info(), text(b"output.weight") + struct.pack("<IQIQ", 1, 4, 0, 0)]),
    "a vocabulary of numbers": gguf([entry(b"tokenizer.ggml.tokens", 9, array(4, 3, bytes(12)))]),
    "control characters": gguf([entry(b"general.architecture", 8, text(b"\x1b]0;x\x07" * 50))]),
}


@pytest.mark.parametrize("name", GGUF)
def test_gguf_files_that_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUF[name])
    assert "model.gguf" in refused(path, tmp_path / "home", capsys)


def test_a_part_of_very_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model-00001-of-99999.gguf"
    path.write_bytes(gguf())
    assert "no model has so many" in refused(path, tmp_path / "home", capsys)
    path = path.rename(tmp_path / "model-00001-of-00900.gguf")
    assert "00002-of-00900.gguf and 898 more is missing" in refused(path, tmp_path / "home", capsys)


# --- ONNX ---------------------------------------------------------------------------------------------------------


def decoder(folder: Path) -> ModelProto:
    """A decoder with a weight beside it, which is the one to change."""
    maker = DecoderMaker()
    save(maker.head(maker.block("embedded")), folder)
    model = onnx.load(str(folder / "model.onnx"))
    weight = next(t for t in model.graph.initializer if t.name == "w0query")
    (folder / "weights").write_bytes(weight.raw_data)
    place(weight, "weights")
    return model


def place(weight: TensorProto, location: str, **entries: object) -> None:
    weight.ClearField("raw_data")
    del weight.external_data[:]
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))


def moved(location: str, **entries: object) -> Callable[[ModelProto, Path], None]:
    def change(model: ModelProto, folder: Path) -> None:
        place(next(t for t in model.graph.initializer if t.name == "w0query"), location, **entries)

    return change


def through_a_link(model: ModelProto, folder: Path) -> None:
    (folder / "weights").rename(folder.parent / "secret")
    (folder / "weights").symlink_to(folder.parent / "secret")


def in_a_node(model: ModelProto, folder: Path) -> None:
    value = TensorProto(name="value", data_type=TensorProto.FLOAT, dims=[8, 8])
    place(value, "../secret")
    (folder / "weights").rename(folder.parent / "secret")
    weight = next(t for t in model.graph.initializer if t.name == "w0query")
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w0query"], value=value))


def too_few_bytes(model: ModelProto, folder: Path) -> None:
    weight = next(t for t in model.graph.initializer if t.name == "w0query")
    weight.dims[:] = [1 << 40, 1 << 20]


def inline_too_few(model: ModelProto, folder: Path) -> None:
    weight = next(t for t in model.graph.initializer if t.name == "w0value")
    weight.dims[:] = [1 << 40, 1 << 20]


GRAPHS: dict[str, Callable[[ModelProto, Path], None]] = {
    "../secret": moved("../secret"),
    "/etc/passwd": moved("/etc/passwd"),
    "sub/../../secret": moved("sub/../../secret"),
    "a link": through_a_link,
    "in a node": in_a_node,
    "a negative offset": moved("weights", offset=-64),
    "a negative length": moved("weights", length=-1),
    "no number": moved("weights", offset="x"),
    "beyond the end": moved("weights", offset=1 << 62),
    "no file": moved("weights2"),
    "no name": moved(""),
    "the folder": moved("."),
    "fewer bytes than its shape": too_few_bytes,
    "fewer bytes inside": inline_too_few,
}


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_of_graphs_that_lie_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = tmp_path / "graph"
    model = decoder(folder)
    (tmp_path / "secret").write_bytes(np.ones((8, 8), np.float32).tobytes())
    GRAPHS[name](model, folder)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    refused(folder, tmp_path / "home", capsys)


def test_such_a_graph_is_taken_in_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "graph"
    (model := decoder(folder))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert add(folder, tmp_path / "home", capsys)[0] == 0
