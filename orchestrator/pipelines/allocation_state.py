"""Allocation states: which nodes a pipeline has, and whether it may plan with them now (pure)."""

from __future__ import annotations

import enum
from collections.abc import Set

from orchestrator.pipelines.partition import Group


class AllocationState(enum.Enum):
    """The state of a pipeline with regard to its nodes."""

    UNDIVIDED = "undivided"
    """It has all nodes, as from the start: the fleet has never been divided, and the first plan waits until enough of
    them are here."""
    RESTING = "resting"
    """It has none."""
    AWAITING = "awaiting"
    """It is to plan anew as soon as no other pipeline uses its nodes; the plan in force, if any, goes on until then."""
    WORKING = "working"
    """It plans with its nodes as if they were the fleet."""
    RESTARTING = "restarting"
    """Others wait for nodes that it can't do without: it goes down as soon as no request is open, and plans anew."""
    GIVING_BACK = "giving back"
    """All of its nodes are wanted elsewhere: it goes down as soon as no request is open, and rests."""

    @property
    def on_hold(self) -> bool:
        """Must no plan be begun in this state?"""
        return self not in (AllocationState.UNDIVIDED, AllocationState.WORKING)

    @property
    def awaits_nodes(self) -> bool:
        """Does the pipeline wait for nodes to plan with?"""
        return self in (AllocationState.AWAITING, AllocationState.RESTARTING)

    @property
    def goes_down(self) -> bool:
        """Is the pipeline's plan to end as soon as no request is open?"""
        return self in (AllocationState.RESTARTING, AllocationState.GIVING_BACK)

    @property
    def has_nodes(self) -> bool:
        """Has the pipeline been given any nodes?"""
        return self not in (AllocationState.RESTING, AllocationState.GIVING_BACK)


class IllegalTransition(RuntimeError):
    """An order that makes no sense in this state: a mistake in the program."""


_S = AllocationState
_FROM = {
    "assign": frozenset(_S),
    "assign_all": frozenset(_S) - {_S.UNDIVIDED},
    "release": frozenset(_S),
    "begin": frozenset({_S.AWAITING}),
    "restart": frozenset({_S.WORKING, _S.AWAITING}),
    "went_down": frozenset({_S.RESTARTING, _S.GIVING_BACK}),
}
"""The second column of the table below."""


class NodeAllocation:
    """The nodes that a pipeline has been given, and its state.

    =============  ===========================  ==========================================================
    transition     from                         to
    =============  ===========================  ==========================================================
    `assign`       RESTING, GIVING_BACK         AWAITING
    `assign`       any other                    WORKING if it can go on as it is, else AWAITING
    `assign_all`   any, unless it has them all  AWAITING
    `release`      any                          GIVING_BACK while it uses nodes, else RESTING
    `begin`        AWAITING                     WORKING
    `restart`      WORKING, AWAITING            RESTARTING
    `went_down`    RESTARTING                   AWAITING
    `went_down`    GIVING_BACK                  RESTING
    =============  ===========================  ==========================================================

    A pipeline can go on as it is when its plan uses nodes, all of them among those that it is given, and none of those
    is new to it. Anything else raises `IllegalTransition`. A pipeline begins as UNDIVIDED, one that is made beside
    others as RESTING.
    """

    def __init__(self, *, resting: bool = False) -> None:
        self._state = AllocationState.RESTING if resting else AllocationState.UNDIVIDED
        self._names: Group | None = frozenset() if resting else None
        self._anew = False

    @property
    def state(self) -> AllocationState:
        return self._state

    @property
    def names(self) -> Group | None:
        """Names of the pipeline's nodes; None: every node of the fleet."""
        return self._names

    def has_to_shed(self, in_use: Set[str]) -> bool:
        """Are there nodes in use that are not the pipeline's own any more?"""
        return self._names is not None and not in_use <= self._names

    # --- transitions ------------------------------------------------------------------------------------------

    def assign(self, names: Group, in_use: Set[str], *, anew: bool = False) -> None:
        """Give the pipeline these nodes and no others.

        Args:
            names: at least one.
            in_use: nodes of its plan in force, and of the one on its way.
            anew: it is to plan with them whatever that gains, though it could go on as it is.
        """
        self._check("assign")
        if not names:
            raise IllegalTransition("assign: a pipeline without nodes is released")
        has_more = self._names is not None and not names <= self._names
        self._names, self._anew = names, anew
        goes_on = in_use and not has_more and not self.has_to_shed(in_use) and not anew
        self._state = AllocationState.WORKING if goes_on else AllocationState.AWAITING

    def assign_all(self, *, anew: bool = False) -> None:
        """Give the pipeline every node of the fleet; ``anew`` as in `assign`."""
        self._check("assign_all")
        if self._names is None:
            raise IllegalTransition("assign_all: it has all nodes already")
        self._names, self._anew = None, anew
        self._state = AllocationState.AWAITING

    def release(self, in_use: Set[str]) -> None:
        """Take all nodes from the pipeline."""
        self._check("release")
        self._names, self._anew = frozenset(), False
        self._state = AllocationState.GIVING_BACK if in_use else AllocationState.RESTING

    def begin(self) -> bool:
        """Let the pipeline work with its nodes: no other pipeline uses them any more.

        Returns:
            Whether it is to plan with them whatever that gains.
        """
        self._check("begin")
        anew, self._anew = self._anew, False
        self._state = AllocationState.WORKING
        return anew

    def restart(self) -> None:
        """Let the pipeline go down for the sake of others, and plan anew."""
        self._check("restart")
        self._state = AllocationState.RESTARTING

    def went_down(self) -> None:
        """Note that the pipeline has gone down, so that its nodes are free."""
        self._check("went_down")
        restarts = self._state is AllocationState.RESTARTING
        self._state = AllocationState.AWAITING if restarts else AllocationState.RESTING

    def _check(self, transition: str) -> None:
        if self._state not in _FROM[transition]:
            raise IllegalTransition(f"{transition}: not in the state {self._state.value}")
