"""A GGUF file becomes the same model as the checkpoint it was made from, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.model.errors import BrokenModel, ModelError, UnsupportedModel
from orchestrator.model.gguf_config import overlooked
from orchestrator.model.gguf_header import BLOCKS, read_header
from orchestrator.model.gguf_rope import rope_scaling
from orchestrator.model.source import resolve_source
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from tests.support.gguf_files import write_gguf
from tests.support.in_process import converting_here
from tests.support.tiny_models import TRAINED_TOKENS, VOCABULARY, make_checkpoint

TEXT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(TRAINED_TOKENS + 26)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda family: folder / family if (folder / family).exists() else make_checkpoint(family, folder / family)


@pytest.fixture
def here() -> Iterator[None]:
    with converting_here():
        yield


def test_a_gguf_is_the_model_it_was_made_from(
    tmp_path: Path, tiny_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    add_bos = gguf.GGUFWriter.add_bos_token_id
    monkeypatch.setattr(gguf.GGUFWriter, "add_bos_token_id", lambda w, n: (w.add_eot_token_id(5), add_bos(w, n)))
    path = tmp_path / "Tiny-Llama.F32.gguf"
    write_gguf(make_checkpoint("llama", tmp_path / "checkpoint"), path)
    steps: list[tuple[str, int, int]] = []
    store = ModelStore(tmp_path / "home")
    manifest = store.add(str(path), precision="fp32", progress=lambda *step: steps.append(step))
    model, original = store.open(), tiny_store.open("tiny")
    assert (manifest.name, manifest.family) == ("tiny-llama-fp32", "llama")
    assert (manifest.bos_id, manifest.eos_ids, manifest.has_chat_template) == (1, (2, 5), True)
    ids = original.tokenizer().encode("The capital of France is")
    assert model.tokenizer().encode("The capital of France is") == ids
    rows = range(len(ids))
    assert np.abs(Chain(model).run(ids, rows) - Chain(original).run(ids, rows)).max() < 1e-4
    assert list(dict.fromkeys(step for step, _, _ in steps)) == [
        *("read", "convert", "save", "split"),
        *("reference", "compare", "structure", "quality"),
    ]
    assert all(done <= total or total == 0 for _, done, total in steps)


def logits(source: Path, home: Path) -> np.ndarray:
    """Of a text longer than a scaled rotary embedding was trained with."""
    store = ModelStore(home)
    store.add(str(source), precision="fp32")
    return Chain(store.open()).run(TEXT, range(len(TEXT)))


def test_parts_are_put_together(tmp_path: Path, here: None, checkpoints: Callable[[str], Path]) -> None:
    write_gguf(checkpoints("llama"), tmp_path / "tiny-F32.gguf", tensors_per_part=15)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [part.name for part in parts] == [f"tiny-F32-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    sources = [resolve_source(str(part)) for part in parts]
    assert {(s.name, s.path, s.fingerprint) for s in sources} == {("tiny", parts[0], sources[0].fingerprint)}
    found = logits(parts[1], tmp_path / "home")
    assert np.abs(found - logits(checkpoints("llama"), tmp_path / "other")).max() < 1e-4


def failure(source: Path, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        resolve_source(str(source))
    assert "\n" not in str(caught.value)


def test_a_part_that_is_missing_or_another_is_named(tmp_path: Path, checkpoints: Callable[[str], Path]) -> None:
    write_gguf(checkpoints("llama"), tmp_path / "tiny.gguf", tensors_per_part=15)
    one, two, three = sorted(tmp_path.glob("*.gguf"))
    second = two.read_bytes()
    two.unlink()
    failure(three, "one of 3 parts and tiny-00002-of-00003.gguf is missing")
    two.write_bytes(one.read_bytes())
    failure(one, "tiny-00002-of-00003.gguf is not the part that its name says")
    two.write_bytes(second[:-1])
    failure(one, "tiny-00002-of-00003.gguf ends before its last tensor")
    (tmp_path / "renamed.gguf").write_bytes(second)
    failure(tmp_path / "renamed.gguf", r"is part 2 of 3: name all parts as they were, NAME-00002-of-00003\.gguf")


def test_damaged_and_foreign_files_are_named(tmp_path: Path, checkpoints: Callable[[str], Path]) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(checkpoints("llama"), path)
    whole = path.read_bytes()
    assert read_header(path).end == len(whole)
    path.write_bytes(whole[:-1])
    failure(path, f"ends before its last tensor \\({len(whole) - 1} of {len(whole)} bytes\\)")
    path.write_bytes(b"GGJT" + whole[4:])
    failure(path, "not a GGUF file")
    path.write_bytes(whole[:4] + b"\0\0\0\x03" + whole[8:])
    failure(path, "big-endian")
    name = b"output_norm.weight"
    at = whole.index(name) + len(name) + 4 + 8  # number of dimensions, and the one that it has
    path.write_bytes(whole[:at] + b"\xff\0\0\0" + whole[at + 4 :])
    failure(path, r"tensors of a type that is not known \(255\)")


def test_sizes_of_tensors_are_those_of_the_format() -> None:
    import gguf

    assert {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()} == BLOCKS


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.pop("blk.1.ffn_up.weight"), BrokenModel, r"lacks weights .*model\.layers\.1\.mlp\.up_proj"),
        (lambda t: t.update({"blk.1.ffn_up.weight": t["blk.1.ffn_up.weight"][:-1]}), BrokenModel, "another shape"),
        (lambda t: t.update({"blk.1.ffn_extra.weight": t["output_norm.weight"]}), UnsupportedModel, "ffn_extra"),
        (lambda t: t.update({"rope_freqs.weight": np.linspace(1, 3, 8).astype(np.float32)}), UnsupportedModel, "form"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path,
    here: None,
    checkpoints: Callable[[str], Path],
    change: Callable[[dict[str, np.ndarray]], None],
    error: type[ModelError],
    words: str,
) -> None:
    write_gguf(checkpoints("llama"), tmp_path / "tiny.gguf", change=change)
    with pytest.raises(error, match=words) as caught:
        ModelStore(tmp_path / "home").add(str(tmp_path / "tiny.gguf"))
    assert "\n" not in str(caught.value)


def tell_scaling(kind: str, architecture: str = "llama", **more: float) -> Callable[[Any], None]:
    def tell(writer: Any) -> None:
        prefix = f"{architecture}.rope.scaling"
        writer.add_string(f"{prefix}.type", kind)
        writer.add_float32(f"{prefix}.factor", 4.0)
        writer.add_uint32(f"{prefix}.original_context_length", TRAINED_TOKENS)
        for key, value in more.items():
            writer.add_float32(f"{prefix}.{key}", value)

    return tell


def add_divisors(tensors: dict[str, np.ndarray]) -> None:
    """As llama.cpp writes them of a Llama 3.1: factor 4, one and four turns in the trained length."""
    wavelengths = 2 * np.pi * 1e4 ** (np.arange(8) / 8)
    slope = (TRAINED_TOKENS / wavelengths - 1) / 3
    between = 1 / ((1 - slope) / 4 + slope)
    low, high = wavelengths > TRAINED_TOKENS, wavelengths < TRAINED_TOKENS / 4
    tensors["rope_freqs.weight"] = np.where(high, 1, np.where(low, 4, between)).astype(np.float32)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama-linear", {"tell": tell_scaling("linear")}),
        ("llama-yarn", {"tell": tell_scaling("yarn", yarn_beta_fast=32.0, yarn_beta_slow=1.0)}),
        ("llama-llama3", {"change": add_divisors}),
        ("gemma3-six", {"tell": tell_scaling("linear", "gemma3"), "architecture": "gemma3"}),
    ],
)
def test_scaled_rotary_embeddings_are_carried_over(
    tmp_path: Path, here: None, checkpoints: Callable[[str], Path], family: str, options: dict[str, Any]
) -> None:
    write_gguf(checkpoints(family), tmp_path / "tiny.gguf", **options)
    found = logits(tmp_path / "tiny.gguf", tmp_path / "home")
    assert np.abs(found - logits(checkpoints(family), tmp_path / "other")).max() < 1e-3


@pytest.mark.parametrize(
    ("family", "architecture"),
    [("llama-untied", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("phi3", "phi3"), ("gemma2", "gemma2")],
)
def test_every_architecture_is_the_model_it_was_made_from(
    tmp_path: Path, here: None, checkpoints: Callable[[str], Path], family: str, architecture: str
) -> None:
    """Heads of a width of their own, attention windows and scales, soft caps: transformers has defaults for some."""
    write_gguf(checkpoints(family), tmp_path / "tiny.gguf", architecture=architecture)
    found = logits(tmp_path / "tiny.gguf", tmp_path / "home")
    assert np.abs(found - logits(checkpoints(family), tmp_path / "other")).max() < 1e-4


@pytest.mark.parametrize(
    ("architecture", "blocks", "scalar"), [("gemma3", 62, 168), ("gemma3", 48, 128), ("gemma2", 46, 168)]
)
def test_the_largest_gemmas_scale_attention_otherwise(architecture: str, blocks: int, scalar: int) -> None:
    entries = {
        "general.architecture": architecture,
        f"{architecture}.block_count": blocks,
        f"{architecture}.embedding_length": 5376,
        f"{architecture}.attention.head_count": 32,
        f"{architecture}.attention.key_length": 128,
    }
    assert overlooked(entries)["query_pre_attn_scalar"] == scalar


def told(**scaling: Any) -> dict[str, Any]:
    entries = {f"qwen2.rope.{key.replace('__', '.')}": value for key, value in scaling.items()}
    return {"general.architecture": "qwen2", "qwen2.context_length": 4096, **entries}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (told(), {}),
        (told(scaling__type="none", scaling__factor=1.0), {}),
        (told(scale_linear=2.0), {"rope_type": "linear", "factor": 2.0}),
        (
            told(scaling__type="yarn", scaling__factor=np.e, scaling__attn_factor=2.0),
            {
                "rope_type": "yarn",
                "factor": np.e,
                "original_max_position_embeddings": 4096,
                "attention_factor": pytest.approx(2.2),
            },
        ),
    ],
)
def test_scaling_in_transformers_words(entries: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope_scaling(entries, {}, 1e4) == expected


def test_divisors_of_short_and_long_texts() -> None:
    tensors = {"rope_factors_short.weight": [1.0, 1.5], "rope_factors_long.weight": [2.0, 3.0]}
    found = rope_scaling(told(scaling__original_context_length=2048, scaling__attn_factor=1.25), tensors, 1e4)
    assert found == {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 3.0],
        "original_max_position_embeddings": 2048,
        "attention_factor": 1.25,
    }


@pytest.mark.parametrize(
    ("entries", "tensors", "words"),
    [
        (told(scaling__type="su"), {}, r"\(su\)"),
        (told(scaling__type="yarn", scaling__yarn_log_multiplier=0.1), {}, r"\(yarn\)"),
        (told(scaling__type="linear", scaling__factor=2.0), {"rope_freqs.weight": [1.0, 8.0]}, "scaled twice"),
    ],
)
def test_scaling_that_transformers_has_no_words_for(
    entries: dict[str, Any], tensors: dict[str, list[float]], words: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        rope_scaling(entries, tensors, 1e4)
