"""The topics of one stage of an epoch."""

from __future__ import annotations

import functools

from schemas.messages import Epoch, PrepareSegment
from schemas.topics import SEGMENT, TOKEN


class StageTopics:
    """Where a stage publishes, and what it reads."""

    def __init__(self, spec: PrepareSegment) -> None:
        self._spec = spec
        self._node = spec.ring[spec.stage].node
        self.token = TOKEN.format(
            pipeline=spec.pipeline, epoch=spec.epoch, sender=self._node, receiver=spec.ring[0].node
        )
        """The last stage's tokens."""
        is_last = spec.stage == len(spec.ring) - 1
        self.next = self.token if is_last else self.segment(spec.stage + 1)
        """What the stage makes of its input."""
        self.input = self._input()
        """What the stage computes on comes here; not through the broker where one node has both ends of the ring."""

    def _input(self) -> str:
        spec = self._spec
        names = {"pipeline": spec.pipeline, "epoch": spec.epoch, "receiver": self._node}
        if spec.stage == 0:
            return TOKEN.format(sender=spec.ring[-1].node, **names)
        return SEGMENT.format(stage=spec.stage, sender=spec.ring[spec.stage - 1].node, **names)

    def segment(self, stage: int) -> str:
        """To another stage of the ring."""
        return self.of(self._spec.epoch, stage, self._spec.ring[stage].node)

    def of(self, epoch: Epoch, stage: int, node: str) -> str:
        """To a stage of any epoch of the pipeline."""
        return SEGMENT.format(pipeline=self._spec.pipeline, epoch=epoch, stage=stage, sender=self._node, receiver=node)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The subscriptions the stage needs: frames to it and, for the first stage, the last one's tokens."""
        spec = self._spec
        to_me = SEGMENT.filter(pipeline=spec.pipeline, epoch=spec.epoch, stage=spec.stage, receiver=self._node)
        if spec.stage > 0 or spec.ring[-1].node == self._node:  # which hands its tokens over itself
            return (to_me,)
        return to_me, self.input


@functools.lru_cache(maxsize=256)
def data_route(topic: str) -> tuple[str, int, str] | None:
    """(pipeline, stage, sender) of a topic that carries frames; cached because every token asks."""
    values = SEGMENT.match(topic)
    if values is not None:
        return (values["pipeline"], int(values["stage"]), values["sender"]) if values["stage"].isdecimal() else None
    values = TOKEN.match(topic)
    return (values["pipeline"], 0, values["sender"]) if values else None
