"""The fleet: which nodes are there and how they are (pure)."""

from orchestrator.fleet.fleet import FleetState

__all__ = ["FleetState"]
