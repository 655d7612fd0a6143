"""What a model in full precision says: its own answers to prompts, and the logits of each of their tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import note
from rings import LocalChain

from orchestrator.model.model import Model

ANSWER_TOKENS = 40


@dataclass(frozen=True)
class Text:
    """A conversation's ids, and the answer of the model in float32."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class Truth:
    """What float32 makes of the texts: logits (tokens of all answers, vocabulary)."""

    texts: list[Text]
    logits: np.ndarray


@contextmanager
def truth_of(reference: Model, prompts: tuple[str, ...], tokens: int) -> Iterator[Truth]:
    """Logits in a file of their own: there may be a gigabyte of them."""
    chain = LocalChain(reference)
    texts = _texts(reference, chain, prompts, tokens)
    shape = (len(texts) * tokens, reference.manifest.vocab_size)
    with tempfile.TemporaryDirectory(dir=reference.blobs_folder.parent) as folder:
        logits = np.memmap(Path(folder) / "logits", np.float32, "w+", shape=shape)
        for index, text in enumerate(texts):
            logits[index * tokens : (index + 1) * tokens] = chain.forced(text.prompt_ids, text.answer_ids)
        del chain
        yield Truth(texts, logits)


def _texts(reference: Model, chain: LocalChain, prompts: tuple[str, ...], tokens: int) -> list[Text]:
    """Each prompt with the answer that float32 gives, kept beside the model: the longest part of all."""
    kept = reference.folder / f"answers-{len(prompts)}-{tokens}.json"
    is_worth_keeping = tokens == ANSWER_TOKENS
    if is_worth_keeping and kept.is_file():
        return [Text(*pair) for pair in json.loads(kept.read_text("utf-8"))]
    note(f"{reference.manifest.name} answers {len(prompts)} prompts")
    tokenizer = reference.tokenizer()
    texts = []
    for prompt in prompts:
        ids = list(tokenizer.encode_chat([{"role": "user", "content": prompt}]))
        texts.append(Text(ids, chain.greedy(ids, tokens)[0]))
    if is_worth_keeping:
        kept.write_text(json.dumps([(text.prompt_ids, text.answer_ids) for text in texts]), "utf-8")
    return texts
