"""The topics of one stage of an epoch."""

from __future__ import annotations

import functools

from edge_node.stage_spec import StageSpec
from schemas.messages import Epoch
from schemas.topics import SEGMENT, TOKEN


class StageTopics:
    """The topics on which a stage publishes, and those that it reads."""

    def __init__(self, spec: StageSpec) -> None:
        self._spec = spec
        self.token = TOKEN.format(
            pipeline=spec.pipeline, epoch=spec.epoch, sender=spec.node, receiver=spec.ring[0].node
        )
        """The last stage's tokens."""
        self.next = self.token if spec.is_last else self.segment(spec.stage + 1)
        """What the stage makes of its input."""
        self.input = self._input()
        """What the stage computes on comes here; not through the broker where one node has both ends of the ring."""

    def _input(self) -> str:
        spec = self._spec
        names = {"pipeline": spec.pipeline, "epoch": spec.epoch, "sender": spec.upstream, "receiver": spec.node}
        return TOKEN.format(**names) if spec.is_first else SEGMENT.format(stage=spec.stage, **names)

    def segment(self, stage: int) -> str:
        """The topic to another stage of the ring."""
        return self.of(self._spec.epoch, stage, self._spec.ring[stage].node)

    def of(self, epoch: Epoch, stage: int, node: str) -> str:
        """The topic to a stage of any epoch of the pipeline."""
        spec = self._spec
        return SEGMENT.format(pipeline=spec.pipeline, epoch=epoch, stage=stage, sender=spec.node, receiver=node)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The subscriptions the stage needs: frames to it and, for the first stage, the last one's tokens."""
        spec = self._spec
        to_me = SEGMENT.filter(pipeline=spec.pipeline, epoch=spec.epoch, stage=spec.stage, receiver=spec.node)
        if not spec.is_first or spec.upstream == spec.node:  # which hands its tokens over itself
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
