"""A hold of the first stage at a token boundary, so that the last KV rows can follow to a new epoch (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_node.requests.request import StageRequest
from schemas.codec import request_id
from schemas.messages import HeldRequest


@dataclass(slots=True)
class Hold:
    """The first stage begins no step; tokens that the ring owes are awaited, then the requests are reported once."""

    limit_s: float
    until_s: float | None = None
    reported: bool = False

    def is_over(self, now_s: float) -> bool:
        """Has the hold lasted too long? Its time begins with the first call."""
        if self.until_s is None:
            self.until_s = now_s + self.limit_s
        return now_s >= self.until_s

    def report(self, requests: Mapping[int, StageRequest]) -> tuple[HeldRequest, ...] | None:
        """Where each request stands, once the ring owes none of them a token; None before, and after the first time.

        Those that have waited longest come first, so that they are first in the next ring, too: the ring comes to a
        stop batch by batch, and who had to wait for the others there must not wait for them again.
        """
        driven = [(number, state, state.driver) for number, state in requests.items() if state.driver]
        driven.sort(key=lambda each: each[2].token_s)
        if self.reported or any(driver.is_owed for _, _, driver in driven):
            return None
        self.reported = True
        return tuple(
            HeldRequest(
                request=request_id(number),
                tokens=len(driver.ids),
                # The row of the newest token is not computed; in the prompt, the rows of later chunks are not.
                valid_tokens=min(state.rule.valid_length, len(driver.ids) - 1),
            )
            for number, state, driver in driven
            if not driver.finished
        )
