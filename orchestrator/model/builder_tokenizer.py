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
    """What the builder asks of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    eos_token: str | None

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Of the token that ends a turn; the builder asks for no other."""
        assert token == self.eos_token
        return self.eos_token_id

    def get_vocab(self) -> dict[str, int]:
        """Where it looks for tokens of tool calls, which nobody reads here."""
        return {}


class _Once:
    """Takes the place of transformers' class: has it read the tokenizer once, and keeps what is asked of it."""

    def __init__(self, auto: Any) -> None:
        self._auto = auto
        self._special: SpecialTokens | None = None

    def from_pretrained(self, *args: Any, **options: Any) -> SpecialTokens:
        if self._special is None:
            tokenizer = self._auto.from_pretrained(*args, **options)
            names = ("bos_token_id", "eos_token_id", "pad_token_id", "eos_token")
            self._special = SpecialTokens(*(getattr(tokenizer, name, None) for name in names))
        return self._special


def read_tokenizer_once(checkpoint: Path, builder: Any, base: Any) -> None:
    """Patch the builder's modules, if the checkpoint has its tokenizer's file.

    Args:
        builder: onnxruntime-genai's module of that name.
        base: the module of the class ``Model``.
    """
    if not (checkpoint / FILE).is_file():
        return
    builder.AutoTokenizer = base.AutoTokenizer = _Once(builder.AutoTokenizer)
    base.Model.save_processing = lambda *_: None
