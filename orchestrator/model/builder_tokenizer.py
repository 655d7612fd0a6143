"""What the builder asks a checkpoint's tokenizer, without loading it.

The builder loads it three times. With a vocabulary of 262,144 tokens each time takes a quarter of a gigabyte, beside
the model, for the ids that begin and end a text. Those of the configuration are enough: `orchestrator.model.tokenizer`
takes the tokenizer's own besides, from its files, which are copied from the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.model.json_file import read_optional

FILE = "tokenizer.json"


class NoTokens:
    """Takes the place of a tokenizer that has nothing to add."""

    bos_token_id = eos_token_id = pad_token_id = eos_token = None

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoTokens:
        """In place of the one of transformers' class."""
        return cls()

    def get_vocab(self) -> dict[str, int]:
        """Where the builder looks for tokens of tool calls, which nobody reads here."""
        return {}


def leave_tokenizer_out(checkpoint: Path, builder: Any, base: Any) -> None:
    """Patch the builder's modules, if the checkpoint has the tokenizer's file, and its configuration ends texts.

    Args:
        builder: onnxruntime-genai's module of that name.
        base: the module of the class ``Model``.
    """
    if (checkpoint / FILE).is_file() and read_optional(checkpoint / "config.json").get("eos_token_id") is not None:
        builder.AutoTokenizer = base.AutoTokenizer = NoTokens
        base.Model.save_processing = lambda *_: None
