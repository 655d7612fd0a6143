"""Messages that broke the contract: each is counted, and the first of each kind is logged."""

from __future__ import annotations

import logging
from collections import Counter

from schemas.errors import ContractError

_log = logging.getLogger(__name__)


class Rejections:
    """What a node has rejected since it started."""

    def __init__(self) -> None:
        self._by_kind: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many there were."""
        return self._by_kind.total()

    def add(self, topic: str, error: ContractError) -> None:
        """Count one."""
        kind = type(error).__name__
        self._by_kind[kind] += 1
        if self._by_kind[kind] == 1:
            _log.warning("rejected %s on %s: %s (counted from now on, not logged)", kind, topic, error)
