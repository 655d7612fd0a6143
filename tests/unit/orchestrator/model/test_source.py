"""What SOURCE can be, and one clear line for everything that it cannot."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from orchestrator.model import convert, room
from orchestrator.model.errors import BrokenModel, ModelError, NoRoom, NoSuchModel, UnsupportedModel
from orchestrator.model.gguf_header import read_header
from orchestrator.model.source import resolve_source
from orchestrator.model.store import ModelStore


def failure(source: Path | str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        resolve_source(str(source))
    assert "\n" not in str(caught.value)
    return caught.value


def test_nothing_there() -> None:
    error = failure("/no/such/place")
    assert isinstance(error, NoSuchModel)
    assert "/no/such/place" in str(error)
    assert isinstance(failure("not a name"), NoSuchModel)
    assert isinstance(failure("models/none.gguf"), NoSuchModel)


def test_a_hub_id_offline_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    error = failure("some-owner/some-model")
    assert isinstance(error, NoSuchModel)
    assert "some-owner/some-model" in str(error)


def test_a_cached_hub_id_is_used_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repository, revision = tmp_path / "models--some-owner--Some_Model", "0" * 40
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (snapshot / "model.safetensors").write_bytes(b"x")
    found = resolve_source("some-owner/Some_Model")
    assert (found.kind, found.name) == ("hf", "some_model")
    assert found.fingerprint == f"hub:some-owner/Some_Model@{revision}"
    assert found.path == snapshot


def test_folders_that_lack_something(tmp_path: Path) -> None:
    assert "neither config.json" in str(failure(tmp_path))
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    assert "weights.gguf" in str(failure(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "download the weights" in str(failure(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert "architectures" in str(failure(tmp_path))
    (tmp_path / "config.json").write_text("{")
    assert isinstance(failure(tmp_path), BrokenModel)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    assert isinstance(failure(tmp_path / "model.bin"), UnsupportedModel)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip archive, not a model",
        b"GGUF" + struct.pack("<IQQ", 99, 10, 10),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 10),
        b"GGUF" + struct.pack("<IQQ", 3, 10, 10) + b"cut off here",
    ],
)
def test_a_broken_gguf(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.Q4_1.gguf"
    path.write_bytes(content)
    error = failure(path)
    assert isinstance(error, BrokenModel)
    assert "model.Q4_1.gguf" in str(error)


def write_gguf(path: Path, architecture: str, **ends: int) -> Path:
    """A GGUF file of two tensors of 4,096 bytes and some metadata of each kind; ``ends``: ids of eos, eot, ..."""
    import gguf

    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_token_list(["a", "bc", "def"])
    writer.add_token_scores([0.0, 1.0, 2.0])
    for name, number in ends.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_custom_alignment(64)
    writer.add_tensor("token_embd.weight", np.zeros((32, 32), np.float32))
    writer.add_tensor("output.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_that_was_not_downloaded_in_full(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "Tiny-Q8_0.gguf", "llama")
    assert resolve_source(str(path)).name == "tiny"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4096])
    assert "ends before its last tensor" in str(failure(path))
    for length in range(0, len(whole) - 2 * 4096 - 200, 7):  # the header, cut anywhere
        path.write_bytes(whole[:length])
        assert isinstance(failure(path), BrokenModel)


def test_a_gguf_names_the_ends_of_a_text_a_turn_and_a_message(tmp_path: Path) -> None:
    assert read_header(write_gguf(tmp_path / "none.gguf", "llama", bos=1)).end_ids == ()
    assert read_header(write_gguf(tmp_path / "all.gguf", "llama", bos=1, eos=7, eot=8, eom=9)).end_ids == (7, 8, 9)


def test_a_gguf_of_another_architecture(tmp_path: Path) -> None:
    error = failure(write_gguf(tmp_path / "state-space.gguf", "mamba"))
    assert isinstance(error, UnsupportedModel)
    assert "'mamba'" in str(error)


def test_an_unsupported_architecture_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match=r"MambaForCausalLM is not supported: .* take a Pythia"):
        ModelStore(tmp_path / "home").add(str(folder))
    assert not (tmp_path / "home").exists()


def test_equal_content_has_an_equal_fingerprint(tmp_path: Path) -> None:
    marks = []
    for place, weights in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
        (folder / "model.safetensors").write_bytes(weights)
        marks.append(resolve_source(str(folder)).fingerprint)
    assert marks[0] == marks[1] != marks[2]


def test_a_profile_that_a_checkpoint_does_not_suit_is_refused_by_its_configuration(tmp_path: Path) -> None:
    """Its weights, which are none, are not looked at."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3_5ForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match="take --profile exact"):
        ModelStore(tmp_path / "home").add(str(folder), profile="steady")


def test_a_gguf_is_not_begun_with_where_the_disk_has_too_little_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", "llama")
    usage = shutil._ntuple_diskusage(10**9, 10**9, 2 * 32 * 32 * 8 - 1)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(convert, "run_module", None)
    with pytest.raises(
        NoRoom, match=rf"{path} can't be converted: it takes 16\.4 kB, and the disk of .* make room there"
    ):
        ModelStore(tmp_path / "home").add(str(path))


def test_a_place_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "blob.gguf", "llama")
    (tmp_path / "tiny.gguf").symlink_to("blob.gguf")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    for text in ("../tiny.gguf", "./../below/../tiny.gguf", str(tmp_path / "tiny.gguf")):
        assert resolve_source(text).place == str(tmp_path / "tiny.gguf")
