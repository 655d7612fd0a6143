"""Faults by a schedule that a number makes: the same number, the same schedule.

``python -m tests.faults.schedule --seed N`` prints one and plays it; ``--help`` has the rest.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What can happen."""

    NODE_KILLED = "a node of the ring is killed, and started again"
    NODE_FROZEN = "a node of the ring stands still, and goes on"
    NODE_CUT = "a node of the ring loses its connection, and gets no other one for a while"
    NODE_SILENT = "nothing passes between a node of the ring and the broker, and nobody is told"
    NODES_KILLED = "two nodes are killed: the others can't hold the model"
    BROKER_RESTARTED = "the broker is killed and started again at once"
    BROKER_AWAY = "the broker is killed, and started again"
    ORCHESTRATOR_KILLED = "the orchestrator is killed, and started again"
    ORCHESTRATOR_FROZEN = "the orchestrator stands still, and goes on"
    ORCHESTRATOR_CUT = "the orchestrator loses its connection, and gets no other one for a while"
    ORCHESTRATOR_SILENT = "nothing passes between the orchestrator and the broker"
    ORCHESTRATOR_REPLACED = "the orchestrator stands still, another one is started in its place, and then it goes on"
    CLIENT_RECONNECTS = "a client loses its connection, and may have another one at once"
    CLIENT_CUT = "a client loses its connection, and gets no other one for a while"
    CLIENT_SILENT = "nothing passes between a client and the broker"
    FRAMES_ALTERED = "some frames arrive damaged"
    FRAMES_REPEATED = "some frames arrive twice, the second time late"
    MESSAGES_ALTERED = "some JSON messages arrive damaged, so that they can't be read"
    MESSAGES_REPEATED = "some JSON messages arrive twice"
    MESSAGES_LATE = "some JSON messages arrive twice, the second time late and behind others: MQTT does not do that"
    LAYERS_MOVED = "an operator has layers moved"
    REBALANCED = "an operator asks for the best plan"
    HOST_KILLED = "the broker and the orchestrator are killed, and started again"


LOSE_TODAY = frozenset({Kind.MESSAGES_LATE})
"""The kinds that lose requests still. Whoever mends one takes it out."""
MOST_TODAY_S: dict[Kind, float] = {}
"""The kinds that lose requests when they last for longer. Whoever mends one takes it out."""
HOLD_TODAY = frozenset(Kind) - LOSE_TODAY
"""The kinds that schedules of the tests are made of."""

ON_RING = frozenset({Kind.NODE_KILLED, Kind.NODE_FROZEN, Kind.NODE_CUT, Kind.NODE_SILENT})
"""Take one node away: they wait until all are there, so that the others can hold the model."""
ON_CLIENT = frozenset({Kind.CLIENT_RECONNECTS, Kind.CLIENT_CUT, Kind.CLIENT_SILENT})
AT_ONCE = frozenset({Kind.BROKER_RESTARTED, Kind.CLIENT_RECONNECTS, Kind.LAYERS_MOVED, Kind.REBALANCED})
"""Over as soon as they have happened."""
ON_ALL = frozenset(
    {Kind.FRAMES_ALTERED, Kind.FRAMES_REPEATED, Kind.MESSAGES_ALTERED, Kind.MESSAGES_REPEATED, Kind.MESSAGES_LATE}
)
"""Go on as long as the schedule."""
PLACES = ("first", "middle", "last")
"""Of the ring in force when it happens."""
CLIENTS = 4


@dataclass(frozen=True)
class Fault:
    """Something that happens ``at_s`` seconds after the beginning, for ``lasts_s``."""

    at_s: float
    kind: Kind
    place: str = ""
    """Whom it happens to, where that is not clear: a place in the ring, a client's number."""
    lasts_s: float = 0.0

    def __str__(self) -> str:
        whom = f" ({self.place})" if self.place else ""
        how_long = f", for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.at_s:6.1f} s  {self.kind.name.lower()}{whom}: {self.kind.value}{how_long}"


@dataclass(frozen=True)
class Shape:
    """How many faults a schedule has, over what time, and how long each of them lasts."""

    faults: tuple[int, int]
    span_s: float
    lasts_s: tuple[float, float]
    altered: float = 0.01
    """Share of what is altered, where that is a fault."""
    repeated: float = 0.05


SHORT = Shape(faults=(1, 2), span_s=1.5, lasts_s=(0.2, 2.5), altered=0.1, repeated=0.5)
LONG = Shape(faults=(3, 6), span_s=15.0, lasts_s=(0.0, 12.0))
WHOLE = Shape(faults=(4, 8), span_s=60.0, lasts_s=(0.0, 60.0))
SHAPES = {"short": SHORT, "long": LONG, "whole": WHOLE}

STARTED_AGAIN = frozenset(
    {Kind.NODE_KILLED, Kind.NODES_KILLED, Kind.BROKER_AWAY, Kind.ORCHESTRATOR_KILLED, Kind.HOST_KILLED}
)
FREEZE_S = 30.0
"""The others: a link is cut or silent, and a process stands still, no longer than this."""


@dataclass(frozen=True)
class Schedule:
    """Faults in order of their beginnings."""

    seed: int
    shape: Shape
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return "\n".join((f"schedule of seed {self.seed}", *map(str, self.faults)))


def make_schedule(
    seed: int, shape: Shape, kinds: Collection[Kind] = HOLD_TODAY, most_s: Mapping[Kind, float] = MOST_TODAY_S
) -> Schedule:
    """The schedule of a seed, of some kinds of faults; some of them last so long at the most."""
    chance = random.Random(seed)
    faults = []
    for _ in range(chance.randint(*shape.faults)):
        kind = chance.choice(tuple(Kind))
        while kind not in kinds:  # so that one more kind leaves most schedules as they are
            kind = chance.choice(tuple(Kind))
        at_s = round(chance.uniform(0.1, shape.span_s), 2)
        lasts_s = 0.0 if kind in AT_ONCE else round(chance.uniform(*shape.lasts_s), 2)
        if kind in ON_ALL:
            at_s, lasts_s = 0.0, shape.span_s
        lasts_s = min(lasts_s, math.inf if kind in STARTED_AGAIN else FREEZE_S, most_s.get(kind, math.inf))
        place = ""
        if kind in ON_RING:
            place = chance.choice(PLACES)
        elif kind in ON_CLIENT:
            place = str(chance.randrange(CLIENTS))
        elif kind is Kind.LAYERS_MOVED:
            place = chance.choice(PLACES)
        faults.append(Fault(at_s, kind, place, lasts_s))
    return Schedule(seed, shape, tuple(sorted(faults, key=lambda fault: fault.at_s)))


if __name__ == "__main__":
    from tests.faults.play import main

    main()
