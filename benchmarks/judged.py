"""What a model makes of a text that is given to it in windows: the licence's, which nothing was adjusted to."""

from __future__ import annotations

from collections.abc import Sequence

import harness
from rings import CHUNK_TOKENS, LocalChain

from orchestrator.model.model import Model
from orchestrator.model.quality import Predictions, judge_rows

WINDOW_TOKENS = 500


def text_ids(model: Model, tokens: int) -> list[int]:
    """The first tokens of the text."""
    text = (harness.ROOT / "LICENSE").read_text(encoding="utf-8")
    return list(model.tokenizer().encode(text))[:tokens]


def judge(chain: LocalChain, ids: Sequence[int]) -> Predictions:
    """Of every token but each window's first, given those of its window before it."""
    parts = []
    for begin in range(0, len(ids), WINDOW_TOKENS):
        window = ids[begin : begin + WINDOW_TOKENS]
        for position in range(0, len(window) - 1, CHUNK_TOKENS):
            chunk = window[position : position + CHUNK_TOKENS]
            following = window[position + 1 : position + 1 + len(chunk)]
            parts.append(judge_rows(chain.all_logits(chunk, position)[: len(following)], following))
    return Predictions.joined(parts)
