"""Whose turn it is to have the draft model guess, of all requests of a node's last stages (pure).

A draft model runs when there is nothing else to do: one run of it at a time, between which the node looks for frames.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

from edge_node.effects import Effect, SendFrame
from edge_node.requests.guesser import Guesser
from edge_node.requests.request import StageRequest
from edge_node.stage.stage import Stage
from edge_node.stage_spec import StageKey
from edge_node.wire.frames import guess_frame
from edge_node.work import Drafted, DraftWork

_log = logging.getLogger(__name__)


class DraftTurns:
    """Hands out the runs of draft models."""

    def __init__(self, stages: Mapping[StageKey, Stage]) -> None:
        self._stages = stages

    def _awaiting(self) -> Iterator[tuple[Stage, int, StageRequest, Guesser]]:
        """The requests that await a guess, by their numbers."""
        for stage in self._stages.values():
            if not (stage.drafts and stage.loaded):
                continue
            for number, state in stage.requests.items():
                guesser = state.guesser
                if guesser and guesser.awaits_draft and not (state.held or state.moved or state.finish):
                    yield stage, number, state, guesser

    @property
    def waiting(self) -> bool:
        """Is there a run to hand out?"""
        return next(self._awaiting(), None) is not None

    def turn(self, run: Callable[[DraftWork], Drafted], now_s: float) -> list[Effect]:
        """Have the request with the fewest guesses get on, and send its guesses if there are enough.

        Args:
            run: does one run of a draft model.
            now_s: now, before it.
        """
        least = min(self._awaiting(), key=lambda one: one[-1].guessed, default=None)
        if least is None:
            return []
        stage, number, state, guesser = least
        text = guesser.text()
        result = run(DraftWork(stage.spec.key, state.slot, text, state.draw_behind(text)))
        if result.failure:
            _log.warning("the draft model of epoch %s is not used any more: %s", stage.spec.epoch, result.failure)
            stage.drafts = False
        if result.token is None:
            return []
        position = len(text) - guesser.guessed
        token_s = result.compute_s if result.count == 1 else None
        chain = guesser.drafted(result.token, token_s, now_s + result.compute_s)
        if not chain:
            return []
        window, attempt = guesser.window_positions, state.rule.attempt
        frame = guess_frame(number, stage.spec.epoch, attempt, position=position, ids=chain, window=window)
        state.stats.sent(len(frame), decode=True)
        return [SendFrame(stage.topics.segment(0), frame)]
