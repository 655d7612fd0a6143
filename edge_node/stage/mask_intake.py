"""The intake of what may come in answers that are bound to a form: sets of tokens, which are remembered (pure)."""

from __future__ import annotations

from typing import Protocol

from edge_node.effects import Effect, Reply
from edge_node.requests.allowed_tokens import Path
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import StageSpec
from edge_node.work import Allowed
from schemas.codec import request_number
from schemas.errors import MaskError
from schemas.messages import AllowTokens, MasksWanted
from schemas.token_mask import RecentMasks, unpack_mask


class ChoosingStage(Protocol):
    """What the intake needs of its stage."""

    spec: StageSpec
    requests: dict[int, StageRequest]

    def take_turn(self, number: int, state: StageRequest) -> None: ...


class MaskIntake:
    """Takes in what may come, on the last stage of one epoch. Other stages are told nothing."""

    def __init__(self, stage: ChoosingStage) -> None:
        self._stage = stage
        self._vocab_size = stage.spec.segment.vocab_size
        self._recent: RecentMasks[bytes] = RecentMasks(self._vocab_size)

    def allow(self, message: AllowTokens) -> list[Effect]:
        """Take in which tokens may come next in an answer, or say what is not known here any more.

        Raises:
            MaskError: a set is damaged or none of this vocabulary, or there is no saying which tokens are meant.
        """
        spec, number = self._stage.spec, request_number(message.request)
        state = self._stage.requests.get(number)
        if state is None or state.allowed is None or message.epoch != spec.epoch:
            return []
        path = self._path(message)
        if path is None:
            wanted = MasksWanted(node=spec.node, epoch=spec.epoch, request=message.request, position=message.position)
            return [Reply(wanted)]
        state.allowed.take(path)
        self._stage.take_turn(number, state)
        return []

    def _path(self, message: AllowTokens) -> Path | None:
        expected = message.expected
        if not len(expected) <= len(message.masks) <= len(expected) + 1:
            raise MaskError(f"{len(message.masks)} sets of tokens along {len(expected)} expected ones")
        if any(token >= self._vocab_size for token in expected):
            raise MaskError(f"a token outside the vocabulary of {self._vocab_size} is expected")
        allowed: list[Allowed | None] = []
        for index, mask in enumerate(message.masks):
            if mask.id is not None:
                allowed.append(self._set(mask.id, mask.data))
            elif index < len(expected):
                allowed.append(expected[index])
            else:
                raise MaskError("behind the expected tokens there is no set of tokens")
        known = [one for one in allowed if one is not None]
        return Path(message.position, expected, known) if len(known) == len(allowed) else None

    def _set(self, name: str, data: str | None) -> bytes | None:
        if data is None:
            return self._recent.use(name)
        mask = unpack_mask(data, self._vocab_size, name)
        self._recent.add(name, mask)
        return mask
