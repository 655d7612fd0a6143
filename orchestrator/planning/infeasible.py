"""Why there is no plan, by how many bytes, and the smallest change that would allow one."""

from __future__ import annotations

from orchestrator.planning.problem import Problem
from orchestrator.planning.solution import Infeasible


def explain_infeasible(problem: Problem) -> Infeasible:
    """A first word: what the chain needs and what the fleet has."""
    needed = sum(run.count * problem.unit_memory_bytes(run) for run in problem.runs)
    room = sum(max(0, problem.memory_limit_bytes(device) - problem.fixed_bytes(device)) for device in problem.eligible)
    missing = max(0, needed - room)
    return Infeasible(f"needs {needed} bytes, the fleet has {room}", missing, "add a device")
