"""One look at a checkpoint's tokenizer for the builder, which loads it three times.

With a vocabulary of 262,144 tokens each time takes a quarter of a gigabyte, beside the model. What the builder writes
of a tokenizer is not needed where the checkpoint has its file: that one is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "tokenizer.json"


@dataclass(frozen=True)
class SpecialTokens:
    """What the builder asks of a tokenizer when it is done."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    eos_token: str | None

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Of the token that ends a turn; the builder asks for no other."""
        assert token == self.eos_token
        return self.eos_token_id


class _First:
    """Takes the place of transformers' class the first time."""

    def __init__(self, auto: Any) -> None:
        self._auto = auto
        self.special: SpecialTokens | None = None

    def from_pretrained(self, *args: Any, **options: Any) -> Any:
        tokenizer = self._auto.from_pretrained(*args, **options)
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "eos_token")
        self.special = SpecialTokens(*(getattr(tokenizer, name, None) for name in names))
        return tokenizer


class _Later:
    """And the other times."""

    def __init__(self, first: _First) -> None:
        self._first = first

    def from_pretrained(self, *args: Any, **options: Any) -> SpecialTokens:
        assert self._first.special, "the builder looks at the tokenizer before it makes the model"
        return self._first.special


def read_tokenizer_once(checkpoint: Path, builder: Any, base: Any) -> None:
    """Patch the builder's modules, if the checkpoint has its tokenizer's file.

    Args:
        builder: onnxruntime-genai's module of that name.
        base: the module of the class ``Model``.
    """
    if not (checkpoint / FILE).is_file():
        return
    first = _First(builder.AutoTokenizer)
    builder.AutoTokenizer, base.AutoTokenizer = first, _Later(first)
    base.Model.save_processing = lambda *_: None
