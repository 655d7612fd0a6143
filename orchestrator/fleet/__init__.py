"""Who is there and how they are (pure)."""

from orchestrator.fleet.fleet import FleetState

__all__ = ["FleetState"]
