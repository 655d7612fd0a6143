"""Tiny tokenizers of the kinds that models come with, each with a chat template in the manner of its family."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.tiny_models import CHAT_TEMPLATE, TEXTS

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>\\n' + m['content'] + '\\n<</SYS>>\\n\\n' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (m['content'] | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
THINKING_TEMPLATE = (
    "{%- macro shown(text) %}{{ text }}{% endmacro %}"
    "{%- for m in messages %}{%- set content = shown(m.content) | trim %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' ~ m.role ~ '\\n' }}{% generation %}{{ content }}{% endgeneration %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)


def byte_level(folder: Path) -> Path:
    """GPT's and Qwen's kind, with `<think>` as a token that answers show, `<tool_call>` as one that takes the spaces
    around it, and spaces as added tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train_bpe(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_tokens([_shown(text) for text in ("<think>", "</think>", "    ", "linguabus")])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False, lstrip=True, rstrip=True)])
    return _save(tokenizer, folder, THINKING_TEMPLATE, bos=None, eos="<|im_end|>")


def unmarked(folder: Path) -> Path:
    """A conversion that has lost which tokens are special."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    _train_bpe(tokenizer, ["<unk>"], pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_tokens([_shown(text) for text in ("<|im_start|>", "<|im_end|>", "<|reserved_7|>")])
    return _save(tokenizer, folder, CHAT_TEMPLATE, bos=None, eos="<|im_end|>")


def unigram(folder: Path) -> Path:
    """SentencePiece's Unigram model as T5 and others have it: NFKC, Metaspace, bytes for what has no piece."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram(_pieces(["<unk>", "<s>", "</s>"]), unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return _save(tokenizer, folder, LLAMA_TEMPLATE, bos="<s>", eos="</s>")


def llama(folder: Path) -> Path:
    """Llama 2's: SentencePiece's BPE, a space in front of each part between control tokens; `</s>` can be merged."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    pieces = _pieces(["<unk>", "<s>", "</s>"])
    vocabulary = {text: number for number, (text, _) in enumerate(pieces)}
    merges = []
    for text in ("</", "s>", "</s>", "<0", "x0", "<0x0", "A>", "<0x0A>", "▁t", "he", "▁the", "ll", "llo"):
        if text not in vocabulary:
            vocabulary[text] = len(vocabulary)
        cut = next(c for c in range(1, len(text)) if text[:c] in vocabulary and text[c:] in vocabulary)
        merges.append((text[:cut], text[cut:]))
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    return _save(tokenizer, folder, LLAMA_TEMPLATE, bos="<s>", eos="</s>")


def gemma(folder: Path) -> Path:
    """Gemma's: no space put in front, runs of line ends and HTML as added tokens that are text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    _train_bpe(tokenizer, ["<pad>", "<eos>", "<bos>", "<unk>", *bytes_], [])
    tokenizer = _without_bytes(tokenizer, bytes_)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in ("<start_of_turn>", "<end_of_turn>")])
    tokenizer.add_tokens([_shown(text) for text in ("\n\n", "\n\n\n", "▁▁", "<table>", "<h1>", "<unused7>")])
    return _save(tokenizer, folder, GEMMA_TEMPLATE, bos="<bos>", eos="<end_of_turn>")


ZOO: dict[str, Callable[[Path], Path]] = {make.__name__: make for make in (byte_level, unmarked, unigram, llama, gemma)}


def _shown(text: str) -> AddedToken:
    from tokenizers import AddedToken

    return AddedToken(text, special=False, normalized=False)


def _train_bpe(tokenizer: Tokenizer, special: Sequence[str], alphabet: Sequence[str]) -> None:
    from tokenizers import AddedToken, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[AddedToken(text, normalized=False) for text in special],
        initial_alphabet=list(alphabet), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXTS, trainer)


def _without_bytes(tokenizer: Tokenizer, bytes_: Sequence[str]) -> Tokenizer:
    """Pieces for bytes are part of the vocabulary, but no tokens to be looked for in a text."""
    from tokenizers import Tokenizer

    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] not in bytes_]
    return Tokenizer.from_str(json.dumps(raw))


def _pieces(control: Sequence[str]) -> list[tuple[str, float]]:
    letters = sorted(set("".join(TEXTS) + "▁\n<>/|_[]0123456789ABCDEFSYINTx") - set(" 🙂🚀你好"))
    words = ["▁the", "▁t", "he", "llo", "in", "▁in", "st", "um", "Be", "▁brief"]
    return [
        *((text, 0.0) for text in control),
        *((f"<0x{byte:02X}>", 0.0) for byte in range(256)),
        *((letter, -6.0) for letter in letters),
        *((word, -4.0) for word in words),
    ]


def _save(tokenizer: Tokenizer, folder: Path, template: str, *, bos: str | None, eos: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": bos, "eos_token": eos, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder
