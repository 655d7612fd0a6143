"""A draft model: a whole small model that guesses what follows a text."""

from __future__ import annotations

from collections.abc import Collection

from edge_node.errors import NotFinite, SegmentUnusable
from edge_node.runtime.sampling import choose_token
from edge_node.runtime.segment import Segment
from edge_node.work import Drafted, DraftWork
from schemas.common_prefix import common_prefix


class DraftModel:
    """Runs a draft model. It remembers which texts its KV rows are of: what is common to two is computed once."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._texts: dict[int, list[int]] = {}
        """By slot: the tokens whose rows are there."""

    def run(self, work: DraftWork, *, vocab_size: int) -> Drafted:
        """Do one run: a chunk of the text that is not there yet, or its last token, after which a guess is chosen.

        Args:
            work: the text, and how to choose.
            vocab_size: of the model whose tokens are guessed; what the draft model has beyond that is padding.
        """
        segment, ids = self.segment, work.ids
        there = self._texts.setdefault(work.slot, [])
        begin = min(common_prefix(there, ids), len(ids) - 1)
        count = min(len(ids) - begin, segment.spec.chunk_tokens)
        segment.ids_input(count)[:] = ids[begin : begin + count]
        try:
            run = segment.run(work.slot, (begin,), count)
            there[begin:] = ids[begin : begin + count]
            if begin + count < len(ids):
                return Drafted(run.compute_s, count)
            draw = work.draw
            logits = run.output[0][:vocab_size]
            token = choose_token(logits, draw.sampling, draw.position, draw.history, draw.prompt_tokens, None)
        except (SegmentUnusable, NotFinite) as error:
            return Drafted(failure=str(error))
        return Drafted(run.compute_s, count, token)

    def forget(self, slots: Collection[int]) -> None:
        """Give back the memory of slots whose texts nobody needs."""
        for slot in slots:
            self._texts.pop(slot, None)
        self.segment.kv.forget(slots)
