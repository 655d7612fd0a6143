"""The prefix index: which ended request's KV cache a new prompt can go on from (pure).

The nodes keep the KV rows of ended requests until a slot is needed (``edge_node.requests.kv_slots``); only the
orchestrator knows which tokens the rows stand for. An entry of the index is a hope, not a promise: a stage that no
longer has the rows finds the gap by the position rule, and the ring computes them again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from schemas.common_prefix import common_prefix
from schemas.messages import Epoch

SHORTEST_PREFIX_TOKENS = 8
"""Less is computed as fast as it is found."""


class PrefixIndex:
    """The newest ``size`` ended requests of the epoch in force, and their tokens."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._epoch: Epoch | None = None
        self._ids: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def remember(self, request: str, epoch: Epoch, ids: Sequence[int]) -> None:
        """Remember a request that ended with these tokens of prompt and answer; the last one's KV row is missing."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._ids.clear()
        self._ids[request] = tuple(ids[:-1])
        while len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def find(self, epoch: Epoch, prompt_ids: Sequence[int]) -> tuple[str, int] | None:
        """The request that shares the longest beginning with a prompt, and that beginning's length in tokens."""
        if epoch != self._epoch:
            return None
        prompt = tuple(prompt_ids)
        lengths = {known: common_prefix(ids, prompt) for known, ids in self._ids.items()}
        request = max(lengths, key=lengths.__getitem__, default=None)
        if request is None:
            return None
        length = lengths[request]
        if length < SHORTEST_PREFIX_TOKENS:
            return None
        self._ids.move_to_end(request)
        return request, length
