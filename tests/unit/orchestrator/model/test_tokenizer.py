"""The tokenizer: chat templates, ids that end an answer, and decoding as tokens arrive."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from orchestrator.model.errors import BrokenModel
from orchestrator.model.tokenizer import REPLACEMENT, ModelTokenizer, copy_tokenizer
from tests.support.tiny_models import make_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ModelTokenizer:
    return ModelTokenizer(folder)


def pieces(tokenizer: ModelTokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(i) for i in ids), stream.finish()]


@given(st.text())
def test_pieces_joined_are_the_text(tokenizer: ModelTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.text())
def test_only_whole_characters_come_out(tokenizer: ModelTokenizer, text: str) -> None:
    text = text.replace(REPLACEMENT, "")
    assert not any(REPLACEMENT in piece for piece in pieces(tokenizer, tokenizer.encode(text)))


@given(st.lists(st.integers(0, 258), max_size=40))
def test_any_ids_at_all_come_out_as_decode_has_them(tokenizer: ModelTokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_character_of_several_tokens_comes_out_with_its_last(tokenizer: ModelTokenizer) -> None:
    ids = tokenizer.encode("🧭")
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [*[""] * (len(ids) - 1), "🧭", ""]


def test_an_answer_cut_inside_a_character_ends_with_a_replacement(tokenizer: ModelTokenizer) -> None:
    ids = tokenizer.encode("ok 🧭")[:-1]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == f"ok {REPLACEMENT}"


def test_a_chat_becomes_ids_by_the_template(tokenizer: ModelTokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.render_chat(messages)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer.encode_chat(messages)
    assert ids[0] == tokenizer.bos_id == 1
    assert tokenizer.decode(ids) == "system\nBe brief.\nuser\nHi\nassistant\n"
    assert tokenizer.eos_ids == {2}


def variant(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of the tokenizer with keys of tokenizer_config.json changed."""
    copy_tokenizer([folder], target)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


def test_a_template_that_refuses_says_so_in_one_line(folder: Path, tmp_path: Path) -> None:
    path = variant(folder, tmp_path, chat_template="{{ raise_exception('system role not supported') }}")
    with pytest.raises(BrokenModel, match="system role not supported"):
        ModelTokenizer(path).encode_chat([{"role": "user", "content": "Hi"}])


def test_a_template_cannot_reach_into_python(folder: Path, tmp_path: Path) -> None:
    path = variant(folder, tmp_path, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BrokenModel, match="unsafe"):
        ModelTokenizer(path).encode_chat([{"role": "user", "content": "Hi"}])


def test_without_a_template_the_contents_are_the_prompt(folder: Path, tmp_path: Path) -> None:
    bare = ModelTokenizer(variant(folder, tmp_path, chat_template=None))
    assert bare.chat_template is None
    assert bare.decode(bare.encode_chat([{"role": "user", "content": "one two"}])) == "one two"


def test_every_end_of_answer_id_counts(folder: Path, tmp_path: Path) -> None:
    path = variant(folder, tmp_path, eos_token={"content": "<|im_end|>"})
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2], "bos_token_id": 1}))
    (path / "config.json").write_text(json.dumps({"eos_token_id": 7, "text_config": {"eos_token_id": [8, -1]}}))
    (path / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": 9}}))
    assert ModelTokenizer(path).eos_ids == {0, 2, 7, 8, 9}


def test_a_template_may_lie_in_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    path = variant(folder, tmp_path, chat_template=None)
    messages = [{"role": "user", "content": "Hi"}]
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "named"}]
    for template, text in (("plain", "plain"), (named, "named"), ({"default": "by name"}, "by name")):
        (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        assert ModelTokenizer(path).render_chat(messages) == text
    (path / "chat_template.jinja").write_bytes(b"bytes \xff{{ messages[0].content }}")
    copy_tokenizer([path], tmp_path / "copy")
    assert (tmp_path / "copy" / "chat_template.json").is_file()
    assert ModelTokenizer(tmp_path / "copy").render_chat(messages) == f"bytes {REPLACEMENT}Hi"


def test_a_template_is_checked_with_a_plain_question(folder: Path, tmp_path: Path) -> None:
    def problem(template: str | None) -> str:
        return ModelTokenizer(variant(folder, tmp_path, chat_template=template)).check_template()

    assert problem(None) == problem("{{ messages[0].content }}") == ""
    assert problem("{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}") == ""
    assert "TypeError" in problem("{{ 'x' + 1 }}")


def test_text_that_a_tokenizer_cannot_encode_is_a_clear_error(tmp_path: Path) -> None:
    bare = Tokenizer(models.Unigram([("a", -1.0), ("<s>", 0.0)]))
    bare.add_special_tokens([AddedToken("<s>", normalized=True)])
    bare.save(str(tmp_path / "tokenizer.json"))
    tokenizer = ModelTokenizer(tmp_path)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_chat([{"role": "user", "content": text}])):
        assert encode("a") == [0]
        with pytest.raises(BrokenModel, match="can't encode this text") as broken:
            encode("secret")
        assert "secret" not in str(broken.value)


def test_a_missing_or_damaged_tokenizer_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BrokenModel, match=r"tokenizer\.json"):
        copy_tokenizer([tmp_path / "empty"], tmp_path / "copy")
    path = variant(folder, tmp_path / "damaged")
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(BrokenModel, match="cannot be read"):
        ModelTokenizer(path)


def test_the_text_of_a_single_token_has_the_space_in_front_of_it(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    for text in (" Paris is", "a\n\nb 🧭"):
        ids = tokenizer.encode(text)
        whole = "".join(tokenizer.token_text(token) for token in ids)
        assert whole.replace(REPLACEMENT, "") == text.replace("🧭", "")
    assert tokenizer.token_text(10**6) == ""
    marked = Tokenizer(models.BPE({"▁Paris": 0, "a": 1, "▁": 2}, []))
    marked.decoder = decoders.Metaspace()
    marked.save(str(tmp_path / "tokenizer.json"))
    assert ModelTokenizer(tmp_path).token_text(0) == " Paris"


def changed(folder: Path, path: Path, change: Callable[[Tokenizer], Tokenizer]) -> ModelTokenizer:
    """The same tokenizer after a change, in a folder of its own."""
    shutil.copytree(folder, path)
    change(Tokenizer.from_file(str(path / "tokenizer.json"))).save(str(path / "tokenizer.json"))
    return ModelTokenizer(path)


def with_another_token(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken("<|another|>", special=True)])
    return tokenizer


def with_two_exchanged(tokenizer: Tokenizer) -> Tokenizer:
    parts = json.loads(tokenizer.to_str())
    vocabulary = parts["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    return Tokenizer.from_str(json.dumps(parts))


def test_tokenizers_are_the_same_that_have_the_same_ids_for_the_same_tokens(
    folder: Path, tokenizer: ModelTokenizer, tmp_path: Path
) -> None:
    copy = changed(folder, tmp_path / "copy", lambda same: same)
    (tmp_path / "copy" / "tokenizer_config.json").unlink()
    assert copy.has_tokens_of(tokenizer)
    for name, change in (("another", with_another_token), ("exchanged", with_two_exchanged)):
        other = changed(folder, tmp_path / name, change)
        assert not other.has_tokens_of(tokenizer), name
        assert not tokenizer.has_tokens_of(other), name
