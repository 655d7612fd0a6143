"""What changes in the fleet, for those who depend on it (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.messages import NodeBirth, RefuseNode, RegisterAgain


@dataclass(frozen=True)
class Joined:
    """A node can be used from now on."""

    birth: NodeBirth


@dataclass(frozen=True)
class Left:
    """A node can't be used any more. ``leaving``: it said so itself."""

    node: str
    reason: str
    leaving: bool = False


@dataclass(frozen=True)
class Tell:
    """A command is to be sent to a node."""

    node: str
    command: RegisterAgain | RefuseNode


@dataclass(frozen=True)
class Drained:
    """A node should give up its layers: no new plan may use it."""

    node: str
    reason: str


@dataclass(frozen=True)
class Restored:
    """A node may be given layers again."""

    node: str


@dataclass(frozen=True)
class Grown:
    """A node may use more memory than before, as its system has more."""

    node: str
    by: str


@dataclass(frozen=True)
class Roused:
    """A node rests no longer, but should have no layers for another reason: it may be a last resort now."""

    node: str
    reason: str


@dataclass(frozen=True)
class Flagged:
    """A node reports what can't be true: its numbers are not used."""

    node: str
    reason: str


@dataclass(frozen=True)
class Trusted:
    """A node's numbers make sense again."""

    node: str


@dataclass(frozen=True)
class Crowded:
    """More nodes, or more starts of one, want to be here than can be real: those beyond a limit are not heard."""

    node: str
    reason: str


FleetChange = Joined | Left | Tell | Drained | Restored | Roused | Grown | Flagged | Trusted | Crowded
