"""The intake of tokens, and of guesses that come behind them, on the first stage (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_node.requests.request import StageRequest
from edge_node.stage_spec import SegmentSpec, StageSpec
from edge_node.wire.frames import token_ids
from schemas.codec import Frame, Kind


class DrivingStage(Protocol):
    """What the intake needs of its stage."""

    spec: StageSpec

    def take_turn(self, number: int, state: StageRequest) -> None: ...


class TokenIntake:
    """Takes in what the last stage says follows the text."""

    def __init__(self, stage: DrivingStage) -> None:
        self._stage = stage
        self._segment: SegmentSpec = stage.spec.segment

    def take(self, frame: Frame, state: StageRequest, now_s: float) -> bool:
        """Take in a frame of tokens or of guesses; False where it is of no use."""
        driver = state.driver
        if driver is None:
            return False
        ids, guess, window = token_ids(frame)
        driver.cut(window)
        if frame.kind is Kind.GUESS:
            if not (state.may_guess(len(guess)) and self._fits(frame.position, guess)):
                return False
            if not driver.guessed(frame.attempt, frame.position, guess):
                return False
        else:
            guess = guess if state.may_guess(len(guess)) else ()
            if not self._fits(frame.position, (*ids, *guess)):
                return False
            if not driver.token(frame.attempt, frame.position, ids, guess, last=bool(frame.flags), now_s=now_s):
                return False
            state.rule.attempt = driver.attempt
        self._stage.take_turn(frame.request, state)
        return True

    def _fits(self, position: int, ids: Sequence[int]) -> bool:
        """Are these tokens of the vocabulary, and is there room for them?"""
        segment = self._segment
        known = all(0 <= token < segment.vocab_size for token in ids)
        return known and position + len(ids) <= segment.context_tokens
