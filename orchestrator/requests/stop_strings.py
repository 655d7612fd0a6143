"""Stop strings: texts before which an answer ends (pure).

The first of them is the one that is complete first; of several that are complete with the same character, the longest
counts. So the end does not depend on how the text came.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class StopStrings:
    """Looks for the first of some texts in a text that comes bit by bit.

    Attributes:
        held: how many characters at the end of the text so far may be the beginning of one.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._tail_length = max(map(len, self._stop)) - 1
        self._tail = ""
        beginnings: dict[str, set[str]] = defaultdict(set)
        for text in self._stop:
            for length in range(1, len(text)):
                beginnings[text[length - 1]].add(text[:length])
        self._beginnings = {last: tuple(sorted(texts, key=len, reverse=True)) for last, texts in beginnings.items()}
        """Of all texts, the longest first, by their last character."""
        self.held = 0

    def find(self, text: str) -> int | None:
        """Take in more text. How far before its end the first stop string begins; None while none is complete."""
        window = self._tail + text
        found = [(start + len(stop), start) for stop in self._stop if (start := window.find(stop)) >= 0]
        if found:
            return len(window) - min(found)[1]
        beginnings = self._beginnings.get(window[-1:], ())
        self.held = next((len(beginning) for beginning in beginnings if window.endswith(beginning)), 0)
        self._tail = window[-self._tail_length :] if self._tail_length else ""
        return None
